// The agent's end of the control stream: connects, registers, hears assignments, sends beats, and connects again.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "ham/v1/worker_service.grpc.pb.h"
#include "proto/backoff.h"
#include "proto/channel.h"

namespace ham::agent {

struct ControlOptions {
  // First retry after 0 to 1 s, later ones after 0 to 5 s.
  Backoff::Options backoff = {absl::Milliseconds(500), absl::Milliseconds(2500), 2.0, 1.0};
  // A coordinator that answers nothing so long after the stream began is given up.
  absl::Duration welcome_timeout = absl::Seconds(15);
  // Another worker of this name may be a dead one whose lease is not over.
  absl::Duration name_timeout = absl::Seconds(15);
};

// Streams are numbered from 1; what is meant for an older one is dropped. Public methods may be called from any thread,
// also from the events, and do not block, Close excepted.
class ControlStream {
 public:
  // Called on threads of the stream, never two at a time for one stream; they must not block.
  struct Events {
    std::function<void(int64_t stream)> opening;  // wants Register
    std::function<void(int64_t stream, size_t endpoint, ham::v1::Welcome)> connected;
    std::function<void(int64_t stream, ham::v1::DesiredAssignments)> desired;
    std::function<void(int64_t exits)> sent;     // of a beat that has left
    std::function<void(int64_t stream)> closed;  // only after connected
    // For good: another protocol, a duplicate name, a refused secret. Nothing is called afterwards.
    std::function<void(const absl::Status&)> failed;
  };

  // Starts to connect.
  ControlStream(const ConnectionConfig& config, const ControlOptions& options, Events events);
  ~ControlStream();  // Close, without time for what is unsent
  ControlStream(const ControlStream&) = delete;
  ControlStream& operator=(const ControlStream&) = delete;

  void Register(int64_t stream, ham::v1::RegisterWorker registration);
  // Replaces a beat that has not left. `exits` comes back once it has.
  void Beat(int64_t stream, ham::v1::Beat beat, int64_t exits);
  // Sends what is unsent, at most for `timeout`, and ends. No event comes after it. Not from an event.
  void Close(absl::Duration timeout);

 private:
  class Call;

  void Run();
  // One connection, from its begin to its end; why it ended.
  absl::Status RunCall(int64_t stream, size_t endpoint, bool* registered);
  // The error to fail with, if `status` cannot be helped by another try.
  std::optional<absl::Status> Verdict(const absl::Status& status, absl::Time* first_duplicate) const;
  void LogRetry(const absl::Status& status, size_t endpoint);

  const ConnectionConfig config_;
  const ControlOptions options_;
  const Events events_;
  std::mt19937_64 random_;                         // thread_ only
  std::string logged_;                             // thread_ only
  absl::Time logged_time_ = absl::InfinitePast();  // thread_ only

  absl::Mutex mutex_;
  std::shared_ptr<Call> call_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Mutex join_mutex_;
  std::thread thread_ ABSL_GUARDED_BY(join_mutex_);
};

}  // namespace ham::agent
