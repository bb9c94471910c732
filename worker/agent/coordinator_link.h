// The current way to the coordinator for calls beside the control stream.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "ham/v1/worker_service.grpc.pb.h"
#include "proto/channel.h"

namespace ham::agent {

// Any thread may call any method.
class CoordinatorLink {
 public:
  struct Connection {
    std::shared_ptr<ham::v1::WorkerService::Stub> stub;  // never null; of a channel that may be broken
    ham::v1::Fence fence;                                // cluster_id and session; the caller adds job and attempt
  };

  explicit CoordinatorLink(const ConnectionConfig& config) : config_(config) { SetStub(0); }

  // After each Welcome: later calls take a new channel, so that they need not wait for the old one's backoff.
  void Connected(size_t endpoint, const std::string& cluster_id, int64_t session) {
    absl::MutexLock lock(&mutex_);
    SetStub(endpoint);
    endpoint_ = endpoint;
    connection_.fence.set_cluster_id(cluster_id);
    connection_.fence.set_session(session);
  }

  Connection Get() const {
    absl::MutexLock lock(&mutex_);
    return connection_;
  }
  Connection Get(const std::string& job, int attempt) const {
    Connection connection = Get();
    connection.fence.set_job(job);
    connection.fence.set_attempt(attempt);
    return connection;
  }
  size_t endpoint() const {
    absl::MutexLock lock(&mutex_);
    return endpoint_;
  }
  const ConnectionConfig& config() const { return config_; }

 private:
  void SetStub(size_t endpoint) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    connection_.stub = ham::v1::WorkerService::NewStub(MakeChannel(config_, endpoint, "calls"));
  }

  const ConnectionConfig config_;
  mutable absl::Mutex mutex_;
  Connection connection_ ABSL_GUARDED_BY(mutex_);
  size_t endpoint_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace ham::agent
