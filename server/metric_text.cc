#include "server/metric_text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

namespace ham::server {
namespace {

constexpr size_t kUsualBytes = 128;  // of a line

const char* TypeName(MetricType type) {
  switch (type) {
    case MetricType::Counter:
      return "counter";
    case MetricType::Summary:
      return "summary";
    default:
      return "gauge";
  }
}

void AppendEscaped(std::string_view text, std::string_view special, std::string* out) {
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find_first_of(special, at), text.size());
    out->append(text, at, end - at);
    if (end == text.size()) return;
    out->push_back('\\');
    out->push_back(text[end] == '\n' ? 'n' : text[end]);
    at = end + 1;
  }
}

void AppendValue(double value, std::string* out) {
  if (std::isnan(value)) {
    out->append("NaN");
  } else if (std::isinf(value)) {
    out->append(value > 0 ? "+Inf" : "-Inf");
  } else {
    char digits[32];
    out->append(digits, std::to_chars(digits, digits + sizeof(digits), value).ptr);
  }
}

void AppendSample(const std::string& name, std::string_view suffix, const MetricLabels& labels, double value,
                  std::string* out) {
  out->append(name).append(suffix);
  char before = '{';
  for (const prometheus::ClientMetric::Label& label : labels) {
    out->push_back(before);
    out->append(label.name).append("=\"");
    AppendEscaped(label.value, "\\\"\n", out);
    out->push_back('"');
    before = ',';
  }
  if (!labels.empty()) out->push_back('}');
  out->push_back(' ');
  AppendValue(value, out);
  out->push_back('\n');
}

}  // namespace

std::string MetricText(const MetricFamilies& families) {
  size_t lines = 0;
  for (const MetricFamily& family : families) lines += 2 + family.metric.size();
  std::string text;
  text.reserve(lines * kUsualBytes);
  for (const MetricFamily& family : families) {
    text.append("# HELP ").append(family.name).append(" ");
    AppendEscaped(family.help, "\\\n", &text);
    text.append("\n# TYPE ").append(family.name).append(" ").append(TypeName(family.type)).append("\n");
    for (const prometheus::ClientMetric& metric : family.metric) {
      if (family.type == MetricType::Summary) {
        AppendSample(family.name, "_count", metric.label, static_cast<double>(metric.summary.sample_count), &text);
        AppendSample(family.name, "_sum", metric.label, metric.summary.sample_sum, &text);
      } else {
        const bool counts = family.type == MetricType::Counter;
        AppendSample(family.name, "", metric.label, counts ? metric.counter.value : metric.gauge.value, &text);
      }
    }
  }
  return text;
}

}  // namespace ham::server
