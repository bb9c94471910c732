// The trainer's end of the frames to its agent (worker/ipc/frame.h).
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include <nlohmann/json.hpp>
#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "worker/trainer/key_value_store.h"

namespace ham::trainer {

// Any thread may call any method. A thread of its own reads; the callbacks run on it and must not block
// on this object.
class AgentChannel {
 public:
  struct Callbacks {
    // The agent is gone (Unavailable), or sent something that is no frame of the protocol (FailedPrecondition). The
    // trainer must end at once. Called at most once, and not for the end that the destructor makes.
    std::function<void(const absl::Status&)> on_end;
    // Answer to a `checkpoint` frame: the files may go now. Optional.
    std::function<void(const std::string& manifest, const absl::Status&)> on_checkpoint_done;
    // A `work` frame, whole. InvalidArgument: it is none, and on_end is told so. Optional.
    std::function<absl::Status(const nlohmann::json& frame)> on_work;
  };

  // Takes over `fd`, a connected stream socket.
  AgentChannel(int fd, Callbacks callbacks);
  ~AgentChannel();
  AgentChannel(const AgentChannel&) = delete;
  AgentChannel& operator=(const AgentChannel&) = delete;

  // Sends one frame, whole. Unavailable when the agent is gone, Internal for a message that is no frame.
  absl::Status Send(const nlohmann::json& message);

  // Waits for the `start` frame. DeadlineExceeded, or what on_end is told.
  absl::StatusOr<nlohmann::json> WaitForStart(absl::Duration timeout);

  // Rendezvous through the agent; valid as long as this object.
  KeyValueStore& store() { return *store_; }

 private:
  class Store;

  void ReadFrames();
  absl::Status Dispatch(const nlohmann::json& message);
  // Sends `request` with a fresh id and waits for the store_reply of that id.
  absl::StatusOr<std::string> CallStore(nlohmann::json request, absl::Duration timeout);

  const int fd_;
  const Callbacks callbacks_;
  std::unique_ptr<KeyValueStore> store_;
  absl::Mutex write_mutex_;  // one frame at a time on the socket
  absl::Mutex mutex_;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status end_ ABSL_GUARDED_BY(mutex_);  // not OK once nothing more will be read
  bool started_ ABSL_GUARDED_BY(mutex_) = false;
  nlohmann::json start_ ABSL_GUARDED_BY(mutex_);
  int64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<int64_t, nlohmann::json> replies_ ABSL_GUARDED_BY(mutex_);  // null until answered
  std::thread reader_;
};

}  // namespace ham::trainer
