// That all ranks of a gang are about to do the same work.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "worker/trainer/collective.h"

namespace ham::trainer {

// What must be equal on all ranks before the first step.
struct RunIdentity {
  std::string build_id;
  std::string spec_digest;
  std::string data_digest;
  int threads = 1;
  int64_t iteration = 0;       // where the run begins
  std::string weights_digest;  // there
};

// All ranks together. FailedPrecondition, on every rank, names the first rank that differs from rank 0 and in what;
// else the errors of the collective.
absl::Status CheckAgreement(const RunIdentity& mine, Collective& ranks);

}  // namespace ham::trainer
