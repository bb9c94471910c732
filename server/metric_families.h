// Families of time series in the making.
#pragma once

#include <prometheus/metric_family.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ham::server {

using prometheus::MetricFamily;
using prometheus::MetricType;
using MetricFamilies = std::vector<MetricFamily>;
using MetricLabels = std::vector<prometheus::ClientMetric::Label>;

MetricFamily Family(const char* name, const char* help, MetricType type = MetricType::Gauge);
void AddMetric(MetricFamily* family, MetricLabels labels, double value);
// A family of one series without labels.
MetricFamily Scalar(const char* name, const char* help, double value, MetricType type = MetricType::Gauge);
// Count and sum, without quantiles.
MetricFamily Summary(const char* name, const char* help, int64_t count, double sum);

// What comes from outside, as the value of a label: UTF-8, and not longer than anybody reads.
std::string LabelText(std::string_view text);

}  // namespace ham::server
