// Tells the agent how far this rank is, also while its training thread waits for other ranks: what they have not begun
// shows who keeps whom waiting.
#pragma once

#include <cstdint>
#include <functional>
#include <thread>

#include <nlohmann/json.hpp>
#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "worker/trainer/collective.h"
#include "worker/trainer/trainer.h"

namespace ham::trainer {

// Sends `progress` frames (worker/ipc/frame.h): at once when the phase changes, else each `interval` in which something
// has changed. Any thread may call any method.
class ProgressReporter {
 public:
  // `send` is called on the thread of Tick or on this object's own, never by two at a time; no longer once this is
  // gone.
  explicit ProgressReporter(std::function<absl::Status(const nlohmann::json& frame)> send,
                            absl::Duration interval = absl::Milliseconds(100));
  ~ProgressReporter();
  ProgressReporter(const ProgressReporter&) = delete;
  ProgressReporter& operator=(const ProgressReporter&) = delete;

  // Evidence of life. Returns the first error of `send`, from then on.
  absl::Status Tick(const Position& position);

  // The calls of `collective` are told of from now on; null: what was told last is kept. It must outlive that.
  void Watch(const Collective* collective);

 private:
  // What a frame tells.
  struct State {
    Position position;
    int64_t tick = 0;
    CollectiveCounts calls;
  };

  void Run();
  void SendNewest();

  const std::function<absl::Status(const nlohmann::json&)> send_;
  const absl::Duration interval_;
  absl::Mutex send_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);  // held while sending: an older state never follows a newer one
  State sent_ ABSL_GUARDED_BY(send_mutex_);
  absl::Mutex mutex_;
  const Collective* collective_ ABSL_GUARDED_BY(mutex_) = nullptr;
  State newest_ ABSL_GUARDED_BY(mutex_);
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace ham::trainer
