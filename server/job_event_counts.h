// How often which reason of a JobEvent was committed. The reasons are a fixed list, so that they make a fixed number of
// time series; each one is there from the start.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string_view>

namespace ham::server {

class JobEventCounts {
 public:
  static constexpr std::string_view kReasons[] = {
      // An attempt, in the order of its life.
      "SUBMITTED", "NO_WORKER_FITS", "WAITING_FOR_SLOTS", "BEHIND_EARLIER_JOB", "GANG_PLACED", "RANKS_JOINED",
      "RANK_RUNNING", "ALL_RANKS_RUNNING", "CHECKPOINT_COMMITTED", "WORK_DONE", "COMPLETED",
      // What ends one, or a job.
      "USER", "TRAINER_CRASH", "WORKER_LOST", "HANG", "PREEMPTED", "INFRASTRUCTURE", "RANK_DOES_NOT_END",
      "CHECKPOINT_DAMAGED", "COORDINATOR_RESTARTED", "BACKOFF", "ATTEMPTS_EXHAUSTED", "CANCEL_REQUESTED", "CANCELLED",
      // What is noted only.
      "RANK_SLOW", "WORKER_UNREACHABLE", "WORKER_EXCLUDED",
      // All others.
      "OTHER"};

  void Add(std::string_view reason) {
    size_t i = 0;
    while (i + 1 < counts_.size() && kReasons[i] != reason) ++i;
    ++counts_[i];
  }
  // In the order of kReasons.
  const auto& counts() const { return counts_; }

 private:
  std::array<int64_t, std::size(kReasons)> counts_{};
};

}  // namespace ham::server
