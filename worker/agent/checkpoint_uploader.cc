#include "worker/agent/checkpoint_uploader.h"

#include <random>
#include <utility>

#include "worker/agent/artifact_transfer.h"

namespace ham::agent {

CheckpointUploader::CheckpointUploader(Upload upload, Done done, const Backoff::Options& backoff)
    : upload_(std::move(upload)), done_(std::move(done)), backoff_(backoff) {
  absl::MutexLock lock(&join_mutex_);
  thread_ = std::thread([this] { Run(); });
}

void CheckpointUploader::Add(CheckpointFrame checkpoint) {
  absl::MutexLock lock(&mutex_);
  if (!closed_) waiting_.push_back(std::move(checkpoint));
}

void CheckpointUploader::Close() {
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
    waiting_.clear();
  }
  absl::MutexLock lock(&join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void CheckpointUploader::Run() {
  while (true) {
    CheckpointFrame checkpoint;
    {
      absl::MutexLock lock(&mutex_);
      const auto due = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !waiting_.empty() || closed_; };
      mutex_.Await(absl::Condition(&due));
      if (closed_) return;
      checkpoint = std::move(waiting_.front());
      waiting_.pop_front();
    }
    const absl::Status status = Try(checkpoint);
    {
      absl::MutexLock lock(&mutex_);
      if (closed_) return;
    }
    done_(checkpoint, status);
  }
}

absl::Status CheckpointUploader::Try(const CheckpointFrame& checkpoint) {
  Backoff backoff(backoff_);
  std::mt19937_64 random{std::random_device()()};
  std::uniform_real_distribution<double> unit(0.0, 1.0);
  while (true) {
    const absl::Status status = upload_(checkpoint);
    if (!MayPass(status)) return status;
    absl::MutexLock lock(&mutex_);
    if (mutex_.AwaitWithTimeout(absl::Condition(&closed_), backoff.Next(unit(random)))) return status;
  }
}

}  // namespace ham::agent
