// What /metrics says of the GPUs of workers.
#pragma once

#include "server/cluster_snapshot.h"
#include "server/metric_families.h"

namespace ham::server {

// Pure. Of what a worker says twice the first counts.
void AddGpuFamilies(const ClusterSnapshot& snapshot, MetricFamilies* families);

}  // namespace ham::server
