// What /metrics says of the coordinator, its queue, its store and its workers.
#pragma once

#include "absl/time/time.h"
#include "server/cluster_snapshot.h"
#include "server/metric_families.h"

namespace ham::server {

// A worker that has not been heard for so long has no series: those of hosts that come and go would pile up.
inline constexpr absl::Duration kWorkerSeriesLife = absl::Hours(24);

// Pure. `now` is steady.
void AddClusterFamilies(const ClusterSnapshot& snapshot, absl::Duration now, MetricFamilies* families);
void AddWorkerFamilies(const ClusterSnapshot& snapshot, absl::Duration now, MetricFamilies* families);

}  // namespace ham::server
