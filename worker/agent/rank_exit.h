// How a rank ended, in the words of the coordinator.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "ham/v1/worker_service.pb.h"

namespace ham::agent {

// What is known when the process of a rank is gone.
struct ExitFacts {
  // As waitpid gives it; nullopt when no process was started.
  std::optional<int> wait_status;
  bool done = false;  // a `done` frame came
  // Of a `failed` frame; empty if none came.
  std::string failed_class;
  std::string failed_message;
  std::optional<int32_t> lost_rank;
  // Not OK: the agent ended the rank, or could not start it, for this reason. It outweighs all the rest.
  absl::Status broken;
};

// In this order: `broken` is INFRASTRUCTURE; a `failed` frame speaks for itself (a class that no trainer may give is
// TRAINER_CRASH); `done` and status 0 is success, and so is `done` and SIGTERM or SIGKILL: all that it had to do is stored,
// and it was slow to end; SIGTERM is PREEMPTED: those who stop a service or a batch job send it to each of its processes,
// and that of the trainer may end first; another signal or an unexpected exit status is TRAINER_CRASH. Pure.
ham::v1::RankExit ClassifyExit(const ExitFacts& facts);

}  // namespace ham::agent
