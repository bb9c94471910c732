// What the states of a job mean to those who wait for it.
#pragma once

#include "ham/v1/job.pb.h"

namespace ham {

// True for SUCCEEDED, FAILED and CANCELLED: nothing follows them.
inline bool IsFinal(ham::v1::Job::State state) {
  return state == ham::v1::Job::SUCCEEDED || state == ham::v1::Job::FAILED || state == ham::v1::Job::CANCELLED;
}

}  // namespace ham
