// The HTTP side: /metrics for Prometheus, made anew at each scrape, /healthz and /readyz for whoever starts and stops
// the coordinator. A scrape takes no lock of the core and costs its thread nothing: it reads the newest ClusterSnapshot
// and atomic counters, and asks the operating system for the rest.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/artifact_store.h"
#include "server/clock.h"
#include "server/cluster_snapshot.h"
#include "server/open_streams.h"

class CivetServer;

namespace ham::server {

// Where a scrape finds things; all that is pointed to outlives the exporter.
struct MetricSources {
  const SnapshotCell* snapshot = nullptr;
  const Clock* clock = nullptr;  // that of the snapshots
  const OpenStreams* streams = nullptr;
  std::function<size_t()> waiting;  // requests, for the core's thread; takes no lock
  const ArtifactStore* artifacts = nullptr;
  int64_t artifact_quota = 0;
  std::string state_dir;
  std::optional<absl::Time> certificate_expiry;  // none without TLS
  size_t job_series = 0;
  const std::atomic<bool>* serving = nullptr;  // calls are answered
};

// The text of /metrics. Any thread.
std::string ScrapeText(const MetricSources& sources);
// OK, or why the coordinator takes no work now, in one sentence.
absl::Status Readiness(const MetricSources& sources);

// Serves on threads of its own. Any thread.
class MetricsExporter {
 public:
  // `address` is host:port, port 0 takes a free one. UNAVAILABLE in one sentence when it cannot be bound.
  static absl::StatusOr<std::unique_ptr<MetricsExporter>> Start(const std::string& address, MetricSources sources);
  ~MetricsExporter();

  const std::string& address() const { return address_; }  // with the real port

 private:
  class Pages;
  MetricsExporter();

  std::string address_;
  std::unique_ptr<Pages> pages_;
  std::unique_ptr<CivetServer> server_;
};

}  // namespace ham::server
