// Which checkpoints lie on disk, and when they may go.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "worker/trainer/checkpoint.h"

namespace ham::trainer {

// Keeps the newest two checkpoints of a run, the best by each of the Scores, and those of every n-th epoch; what an
// earlier attempt left in the directory counts. The best ones are named in best.json beside them. A checkpoint is
// epoch-N, or epoch-N-iteration-I if it was made within epoch N + 1.
// With `uploads`, one that was not yet acknowledged stays, as its files are being read; while two wait, further ones
// are left out (training does not wait for a slow network), but the last one never is. Any thread may call any method.
class CheckpointKeeper {
 public:
  // Directories are made in `parent`, which must exist when one is stored. `keep_every_epochs` 0 = none.
  CheckpointKeeper(std::string parent, bool uploads, int keep_every_epochs)
      : parent_(std::move(parent)), uploads_(uploads), keep_every_epochs_(keep_every_epochs) {}

  // The first call also looks through the directory, and removes what an interrupted write left. (Not the constructor:
  // only the rank that stores may remove.) Writes the checkpoint and returns its manifest, or nothing where it was left
  // out. Errors of WriteCheckpoint.
  absl::StatusOr<std::optional<std::string>> Store(const Checkpoint& checkpoint, bool last);

  // Of the checkpoint at the end of that epoch; one that is not on disk cannot be the best. Of equals the earlier one
  // is. ResourceExhausted or Unavailable where that cannot be noted.
  absl::Status Score(const Scores& scores);

  // The upload of `manifest` ended. An unknown manifest is ignored.
  void Acknowledge(const std::string& manifest, const absl::Status& status);

  // Waits until the newest checkpoint was acknowledged; OK if there is none. Its upload's error, or DeadlineExceeded.
  absl::Status WaitForNewest(absl::Duration timeout);

 private:
  struct Entry {
    std::string name;
    std::string manifest = {};  // "" for an earlier attempt's
    bool acknowledged = false;
    absl::Status upload = {};
    bool on_schedule = false;  // of an n-th epoch
  };
  struct Mark {
    std::string name;  // "" = none yet
    double value = 0;
  };

  void Adopt() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AdoptMarks() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status WriteMarks() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Removes what nothing keeps; of the others `newest` stay.
  void Collect(size_t newest) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsOnSchedule(int64_t epoch, bool within_epoch) const;
  std::string PathOf(const std::string& name) const { return parent_ + "/" + name; }

  const std::string parent_;
  const bool uploads_;
  const int keep_every_epochs_;
  absl::Mutex mutex_;
  bool adopted_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<Entry> entries_ ABSL_GUARDED_BY(mutex_);  // oldest first
  std::array<Mark, 2> marks_ ABSL_GUARDED_BY(mutex_);  // by kMarks
};

}  // namespace ham::trainer
