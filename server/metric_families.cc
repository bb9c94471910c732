#include "server/metric_families.h"

#include <utility>

#include "proto/utf8.h"

namespace ham::server {
namespace {

constexpr size_t kMostLabelBytes = 200;

}  // namespace

MetricFamily Family(const char* name, const char* help, MetricType type) {
  MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  return family;
}

void AddMetric(MetricFamily* family, MetricLabels labels, double value) {
  prometheus::ClientMetric& metric = family->metric.emplace_back();
  metric.label = std::move(labels);
  if (family->type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
}

MetricFamily Scalar(const char* name, const char* help, double value, MetricType type) {
  MetricFamily family = Family(name, help, type);
  AddMetric(&family, {}, value);
  return family;
}

MetricFamily Summary(const char* name, const char* help, int64_t count, double sum) {
  MetricFamily family = Family(name, help, MetricType::Summary);
  prometheus::ClientMetric& metric = family.metric.emplace_back();
  metric.summary.sample_count = static_cast<uint64_t>(count);
  metric.summary.sample_sum = sum;
  return family;
}

std::string LabelText(std::string_view text) { return Shown(text, kMostLabelBytes); }

}  // namespace ham::server
