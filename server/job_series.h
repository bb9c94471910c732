// What /metrics says of single jobs, within bounds: whatever a spec asks for or a worker reports, a job has at most
// kMostJobSeries time series and those of kMostClassSuites times kMostClasses classes.
#pragma once

#include <cstddef>

#include "server/cluster_snapshot.h"
#include "server/metric_families.h"

namespace ham::server {

inline constexpr size_t kMostJobSeries = 30;
inline constexpr size_t kMostClassSuites = 2;
inline constexpr size_t kMostClasses = 100;

// Pure. Accuracies and shares are fractions in [0, 1]. Up to `most` series of all jobs together, in the order of the
// snapshot's jobs: what a job is, how it goes, its suites; and once all jobs have these, their classes. What does not
// fit is left out, and counted. Nothing is named twice, since a scrape with a series that stands twice is refused as a
// whole: of what a report says twice the first counts.
void AddJobFamilies(const ClusterSnapshot& snapshot, size_t most, MetricFamilies* families);

}  // namespace ham::server
