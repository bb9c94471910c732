#include "server/coordinator.h"

namespace ham::server {

using ham::v1::Job;

bool IsAllowedTransition(Job::State from, Job::State to) {
  switch (from) {
    case Job::QUEUED:
      return to == Job::STARTING || to == Job::CANCELLED || to == Job::FAILED;
    case Job::STARTING:
      return to == Job::RUNNING || to == Job::RECOVERING || to == Job::QUEUED || to == Job::CANCELLING ||
             to == Job::FAILED;
    case Job::RUNNING:
      return to == Job::PAUSING || to == Job::PREEMPTING || to == Job::RECOVERING || to == Job::CANCELLING ||
             to == Job::SUCCEEDED || to == Job::FAILED;
    case Job::RECOVERING:
      return to == Job::STARTING || to == Job::QUEUED || to == Job::CANCELLING || to == Job::FAILED;
    case Job::PAUSING:
      return to == Job::PAUSED || to == Job::RECOVERING || to == Job::CANCELLING || to == Job::SUCCEEDED ||
             to == Job::FAILED;
    case Job::PAUSED:
      return to == Job::QUEUED || to == Job::CANCELLED;
    case Job::PREEMPTING:
      return to == Job::QUEUED || to == Job::CANCELLING || to == Job::SUCCEEDED || to == Job::FAILED;
    case Job::CANCELLING:
      return to == Job::CANCELLED || to == Job::SUCCEEDED;
    default:
      return false;
  }
}

}  // namespace ham::server
