// Which checkpoints lie on disk, and when they may go.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "worker/trainer/checkpoint.h"

namespace ham::trainer {

// Keeps the newest two checkpoints of a run, those counted in that an earlier attempt left in the directory. With
// `uploads`, one that was not yet acknowledged stays, as its files are being read; while two wait, further ones are
// left out (training does not wait for a slow network), but the last one never is. Any thread may call any method.
class CheckpointKeeper {
 public:
  // Directories are made in `parent`, which must exist.
  CheckpointKeeper(std::string parent, bool uploads) : parent_(std::move(parent)), uploads_(uploads) {}

  // The first call also looks through the directory, and removes what an interrupted write left. (Not the constructor:
  // only the rank that stores may remove.) Writes the checkpoint and returns its manifest, or nothing where it was left
  // out. Errors of WriteCheckpoint.
  absl::StatusOr<std::optional<std::string>> Store(const Checkpoint& checkpoint, bool last);

  // The upload of `manifest` ended. An unknown manifest is ignored.
  void Acknowledge(const std::string& manifest, const absl::Status& status);

  // Waits until the newest checkpoint was acknowledged; OK if there is none. Its upload's error, or DeadlineExceeded.
  absl::Status WaitForNewest(absl::Duration timeout);

 private:
  void AdoptOlder() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  struct Entry {
    std::string directory;
    std::string manifest;
    bool acknowledged = false;
    absl::Status upload;
  };

  const std::string parent_;
  const bool uploads_;
  absl::Mutex mutex_;
  bool adopted_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<Entry> entries_ ABSL_GUARDED_BY(mutex_);  // oldest first
};

}  // namespace ham::trainer
