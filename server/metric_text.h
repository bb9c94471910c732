// Families in Prometheus's text format, version 0.0.4. Ours because prometheus-cpp's TextSerializer writes through
// std::ostream, a label's character at a time: three quarters of a scrape of a thousand jobs.
#pragma once

#include <string>

#include "server/metric_families.h"

namespace ham::server {

// Gauges, counters, and summaries without quantiles; no timestamps. Values are the shortest that read back the same.
std::string MetricText(const MetricFamilies& families);

}  // namespace ham::server
