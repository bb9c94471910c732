// The whole coordinator in one object: puts the parts together, serves, takes them apart in the opposite order.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>

#include "absl/status/status.h"
#include "grpcpp/server.h"
#include "server/artifact_collector.h"
#include "server/artifact_store.h"
#include "server/authentication.h"
#include "server/client_service.h"
#include "server/clock.h"
#include "server/coordinator_loop.h"
#include "server/identity.h"
#include "server/job_store.h"
#include "server/metrics_exporter.h"
#include "server/open_streams.h"
#include "server/options.h"
#include "server/record_writer.h"
#include "server/scheduling_policy.h"
#include "server/worker_service.h"

namespace ham::server {

// Start once, then Stop; the two and the destructor are called by one thread.
class Server {
 public:
  // `options` as CheckOptions allows them.
  explicit Server(const ServerOptions& options) : options_(options) {}
  ~Server() { Stop(); }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Takes the state directory (made when missing), begins a new term, and serves. When OK, calls are answered, the
  // bootstrap files and the port file are written. Otherwise one sentence, and nothing is left to call but Stop:
  // FAILED_PRECONDITION when another coordinator has the directory or a newer release wrote it; DATA_LOSS for damaged
  // files; UNAVAILABLE for a port that cannot be had or a disk that cannot be written; RESOURCE_EXHAUSTED for a full
  // one.
  absl::Status Start();

  // Ends watches and control streams with UNAVAILABLE, answers what was taken, gives running calls
  // `limits.shutdown_grace`, then cuts them off. Calls get UNAVAILABLE meanwhile, or CANCELLED where gRPC had accepted
  // them and not yet begun. Everything acknowledged is durable. Idempotent; also after a Start that failed.
  void Stop();

  // Calls back on the core's thread once that has done what waits before it, so never while it is stuck; also never
  // when its queue is full. After a Start that was OK; any thread.
  void WhenAlive(std::function<void()> alive);

  // host:port with the real port; after Start.
  std::string address() const;
  // The same of /metrics; "" when it is off.
  std::string metrics_address() const { return exporter_ == nullptr ? "" : exporter_->address(); }
  // Open streams of WatchJob; after Start, any thread.
  size_t watches() const { return hub_->watches(); }

 private:
  void StartLoop(Store::Contents contents);
  void StartCollector();
  absl::Status Listen(const Identity& identity);
  absl::Status ServeMetrics(const Identity& identity);
  absl::Status Announce(const Identity& identity);

  // In the order of their making; each may use those above it.
  const ServerOptions options_;
  const SystemClock clock_;
  const SubmitOrderGangs policy_;
  std::minstd_rand random_{std::random_device{}()};  // the loop's thread only
  std::uniform_real_distribution<double> jitter_{-1.0, 1.0};
  SnapshotCell snapshot_;
  OpenStreams streams_;
  std::atomic<bool> serving_ = false;
  std::optional<StateLock> lock_;
  std::optional<Authenticator> authenticator_;
  std::unique_ptr<ArtifactStore> artifacts_;
  std::string signing_key_;  // of evaluation records: public, as base64
  std::unique_ptr<JobStore> store_;
  std::optional<WatchHub> hub_;
  std::optional<RendezvousTable> rendezvous_;
  std::optional<RecordWriter> record_writer_;  // shut down before the loop ends
  std::optional<CoordinatorLoop> loop_;
  std::optional<ArtifactCollector> collector_;  // shut down before the loop stops
  std::optional<JobServiceImpl> jobs_;
  std::optional<ClusterServiceImpl> cluster_;
  std::optional<WorkerServiceImpl> workers_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> grpc_;
  std::unique_ptr<MetricsExporter> exporter_;
};

}  // namespace ham::server
