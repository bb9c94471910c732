// Brings the checkpoints of one rank to the coordinator, one after the other.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "proto/backoff.h"
#include "worker/agent/trainer_frames.h"

namespace ham::agent {

// A thread of its own works. Any thread may call any method; none but Close blocks.
class CheckpointUploader {
 public:
  // Uploads and commits one checkpoint. Blocks.
  using Upload = std::function<absl::Status(const CheckpointFrame&)>;
  using Done = std::function<void(const CheckpointFrame&, const absl::Status&)>;

  // Errors that pass by themselves (Unavailable, DeadlineExceeded, ResourceExhausted) are tried again until Close.
  CheckpointUploader(Upload upload, Done done, const Backoff::Options& backoff);
  ~CheckpointUploader() { Close(); }

  void Add(CheckpointFrame checkpoint);
  // Drops what waits. The upload in hand must be made to return by its owner. No `done` comes after it.
  void Close();

 private:
  void Run();
  absl::Status Try(const CheckpointFrame& checkpoint);

  const Upload upload_;
  const Done done_;
  const Backoff::Options backoff_;
  absl::Mutex mutex_;
  std::deque<CheckpointFrame> waiting_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Mutex join_mutex_;
  std::thread thread_ ABSL_GUARDED_BY(join_mutex_);
};

}  // namespace ham::agent
