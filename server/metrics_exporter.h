// Prometheus /metrics, made from the newest ClusterSnapshot at each scrape.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/cluster_snapshot.h"

namespace prometheus {
class Collectable;
class Exposer;
struct MetricFamily;
}  // namespace prometheus

namespace ham::server {

// The families of one snapshot; pure. Accuracies and shares are fractions in [0, 1]. Jobs are taken in name order
// and make up to `job_series` time series: the scalars of a job, those of a suite, its classes are left out where they
// do not fit. So is what a report names twice, and suites beyond those of a spec.
std::vector<prometheus::MetricFamily> CollectMetrics(const ClusterSnapshot& snapshot, size_t job_series);

// Serves /metrics on threads of its own. Any thread.
class MetricsExporter {
 public:
  // `address` is host:port, port 0 takes a free one. UNAVAILABLE in one sentence when it cannot be bound.
  // `snapshot` must outlive the exporter.
  static absl::StatusOr<std::unique_ptr<MetricsExporter>> Start(const std::string& address, size_t job_series,
                                                                const SnapshotCell* snapshot);
  ~MetricsExporter();

  const std::string& address() const { return address_; }  // with the real port

 private:
  MetricsExporter();

  std::string address_;
  std::shared_ptr<prometheus::Collectable> collectable_;
  std::unique_ptr<prometheus::Exposer> exposer_;
};

}  // namespace ham::server
