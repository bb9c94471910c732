// What a rank of an evaluation is to do now: its agent says it anew each time that it changes. Any thread.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include <nlohmann/json.hpp>
#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/evaluation/evaluation_plan.h"

namespace ham::trainer {

// The blocks of a `work` frame (worker/ipc/frame.h). InvalidArgument for what is no list of blocks.
absl::StatusOr<std::vector<WorkBlock>> ParseWork(const nlohmann::json& frame);

class BlockQueue {
 public:
  // All that is to be done, in this order. A block that was taken is not given again for as long as it stays listed, or
  // is under work.
  void Replace(std::vector<WorkBlock> blocks);
  // Whoever calls is done with what was given before, and works on what is given now: the first one listed that was not
  // taken; nullopt when there is none for so long.
  std::optional<WorkBlock> Take(absl::Duration timeout);

 private:
  void ForgetTaken() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The block to be taken next; end if there is none.
  std::vector<WorkBlock>::const_iterator Next() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  std::vector<WorkBlock> listed_ ABSL_GUARDED_BY(mutex_);
  std::vector<WorkBlock> taken_ ABSL_GUARDED_BY(mutex_);  // listed, or under work
  std::optional<WorkBlock> under_work_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ham::trainer
