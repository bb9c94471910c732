#include "worker/agent/silence_watch.h"

#include <utility>

namespace ham::agent {

SilenceWatch::SilenceWatch(absl::Duration limit, Silent silent) : limit_(limit), silent_(std::move(silent)) {
  thread_ = std::thread([this] { Run(); });
}

SilenceWatch::~SilenceWatch() {
  {
    absl::MutexLock lock(&mutex_);
    closing_ = true;
  }
  thread_.join();
}

void SilenceWatch::Heard(const ham::v1::Progress& progress) {
  absl::MutexLock lock(&mutex_);
  if (progress.tick() != last_.tick()) heard_ = true;
  last_ = progress;
}

void SilenceWatch::Run() {
  const auto due = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return heard_ || closing_; };
  bool silence = true;  // was told of, or nothing was heard yet
  while (true) {
    ham::v1::Progress last;
    {
      absl::MutexLock lock(&mutex_);
      const bool heard = mutex_.AwaitWithTimeout(absl::Condition(&due), silence ? absl::InfiniteDuration() : limit_);
      if (closing_) return;
      heard_ = false;
      silence = !heard;
      last = last_;
    }
    if (!silence) continue;
    silent_(last, limit_);
    limit_ *= 2;
  }
}

}  // namespace ham::agent
