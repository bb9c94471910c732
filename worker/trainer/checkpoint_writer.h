// Checkpoints to disk while training goes on.
#pragma once

#include <functional>
#include <future>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/trainer/checkpoint.h"
#include "worker/trainer/checkpoint_keeper.h"

namespace ham::trainer {

// At most one checkpoint is being written, on a thread of its own. One thread calls. The destructor waits for it.
class CheckpointWriter {
 public:
  // Called on the writing thread when a checkpoint is whole on disk. Optional.
  using OnStored = std::function<absl::Status(const std::string& manifest, const CheckpointInfo& info)>;

  // Writes to `directory`, made if it is missing, through `keeper` of that directory, which outlives this. `info` has
  // what a run's checkpoints have in common; that of `epochs` done is the last.
  CheckpointWriter(std::string directory, CheckpointInfo info, int epochs, CheckpointKeeper& keeper, OnStored on_stored)
      : directory_(std::move(directory)),
        info_(std::move(info)),
        epochs_(epochs),
        keeper_(keeper),
        on_stored_(std::move(on_stored)) {}

  // True once nothing is being written, false after `timeout`.
  bool AwaitIdle(absl::Duration timeout) const;

  // Waits for the one before and returns its error, then begins to write this one.
  absl::Status Store(Checkpoint checkpoint);

  // Waits for the one before, whose error it returns, then CheckpointKeeper::Score.
  absl::Status Score(const Scores& scores);

  // Waits until nothing is being written; that one's error. Errors of keeper and OnStored; exceptions pass through.
  absl::Status Finish();

 private:
  // By value: the memory is free when it returns.
  absl::Status Write(Checkpoint checkpoint);

  const std::string directory_;
  const CheckpointInfo info_;
  const int epochs_;
  CheckpointKeeper& keeper_;
  const OnStored on_stored_;
  std::future<absl::Status> being_written_;  // last: the rest outlives its thread
};

}  // namespace ham::trainer
