#include "worker/trainer/progress_reporter.h"

#include <string_view>
#include <utility>

namespace ham::trainer {

ProgressReporter::ProgressReporter(std::function<absl::Status(const nlohmann::json& frame)> send,
                                   absl::Duration interval)
    : send_(std::move(send)), interval_(interval) {
  thread_ = std::thread([this] { Run(); });
}

ProgressReporter::~ProgressReporter() {
  {
    absl::MutexLock lock(&mutex_);
    closing_ = true;
  }
  thread_.join();
}

absl::Status ProgressReporter::Tick(const Position& position) {
  bool at_once = false;
  {
    absl::MutexLock lock(&mutex_);
    at_once = newest_.tick == 0 || std::string_view(newest_.position.phase) != position.phase;
    newest_.position = position;
    ++newest_.tick;
  }
  if (at_once) SendNewest();
  absl::MutexLock lock(&mutex_);
  return error_;
}

void ProgressReporter::Watch(const Collective* collective) {
  absl::MutexLock lock(&mutex_);
  if (collective_ != nullptr) newest_.calls = collective_->counts();
  collective_ = collective;
}

void ProgressReporter::Run() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&closing_), interval_)) return;
    }
    SendNewest();
  }
}

void ProgressReporter::SendNewest() {
  absl::MutexLock sending(&send_mutex_);
  State state;
  {
    absl::MutexLock lock(&mutex_);
    if (collective_ != nullptr) newest_.calls = collective_->counts();
    state = newest_;
  }
  if (state.tick == sent_.tick && state.calls == sent_.calls) return;
  sent_ = state;
  const absl::Status status = send_({{"type", "progress"},
                                     {"phase", state.position.phase},
                                     {"tick", state.tick},
                                     {"iteration", state.position.iteration},
                                     {"epoch", state.position.epoch},
                                     {"collective_sequence", state.calls.completed},
                                     {"collective_begun", state.calls.begun},
                                     {"collective_seconds", state.calls.seconds}});
  absl::MutexLock lock(&mutex_);
  error_.Update(status);
}

}  // namespace ham::trainer
