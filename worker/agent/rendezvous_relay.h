// Rendezvous keys of one rank, on their way between trainer and coordinator.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "worker/agent/coordinator_link.h"

namespace ham::agent {

// Any thread may call any method; none but Close blocks. `done` is called once, on a thread of gRPC or, for a refusal,
// on the caller's.
class RendezvousRelay {
 public:
  using Done = std::function<void(absl::StatusOr<std::string>)>;

  // `link` must outlive it.
  RendezvousRelay(const CoordinatorLink* link, std::string job, int attempt)
      : link_(link), job_(std::move(job)), attempt_(attempt) {}
  ~RendezvousRelay() { Close(); }

  // The answer of Set is empty text. Errors of the coordinator, DeadlineExceeded, ResourceExhausted when more than 1024
  // calls wait, Cancelled after Close.
  void Set(const std::string& key, const std::string& value, Done done);
  void Get(const std::string& key, absl::Duration timeout, Done done);

  // Cancels what waits, and returns once every `done` has returned.
  void Close();

 private:
  struct Call;

  std::shared_ptr<Call> Begin(absl::Duration timeout, const Done& done);
  void End(const std::shared_ptr<Call>& call, const grpc::Status& status, const std::string& value);

  const CoordinatorLink* const link_;
  const std::string job_;
  const int attempt_;
  absl::Mutex mutex_;
  std::set<std::shared_ptr<Call>> calls_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace ham::agent
