#include "worker/trainer/checkpoint_writer.h"

#include <cstdint>

namespace ham::trainer {

bool CheckpointWriter::AwaitIdle(absl::Duration timeout) const {
  return !being_written_.valid() ||
         being_written_.wait_for(absl::ToChronoNanoseconds(timeout)) == std::future_status::ready;
}

absl::Status CheckpointWriter::Store(Checkpoint checkpoint) {
  if (absl::Status status = Finish(); !status.ok()) return status;
  const int64_t iteration = checkpoint.info.iteration;
  const int epoch = checkpoint.info.epoch;
  checkpoint.info = info_;
  checkpoint.info.iteration = iteration;
  checkpoint.info.epoch = epoch;
  being_written_ = std::async(std::launch::async, [this, checkpoint = std::move(checkpoint)]() mutable {
    return Write(std::move(checkpoint));
  });
  return absl::OkStatus();
}

absl::Status CheckpointWriter::Write(Checkpoint checkpoint) {
  if (absl::Status status = MakeDirectory(directory_); !status.ok()) return status;
  const auto manifest = keeper_.Store(checkpoint, checkpoint.info.epoch == epochs_);
  if (!manifest.ok()) return manifest.status();
  return manifest->has_value() && on_stored_ ? on_stored_(**manifest, checkpoint.info) : absl::OkStatus();
}

absl::Status CheckpointWriter::Score(const Scores& scores) {
  if (absl::Status status = Finish(); !status.ok()) return status;
  return keeper_.Score(scores);
}

absl::Status CheckpointWriter::Finish() { return being_written_.valid() ? being_written_.get() : absl::OkStatus(); }

}  // namespace ham::trainer
