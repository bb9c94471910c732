// Metric points of a trainer: from untrusted JSON to a message that every reader may rely on.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ham/v1/metrics.pb.h"

namespace ham::agent {

// From the JSON of a `metric` frame, parsed strictly (ipc::ReadFrame). InvalidArgument in one sentence for unknown
// fields, wrong types, a missing kind, or vectors that CheckMetricPoint refuses. Any thread.
absl::StatusOr<ham::v1::MetricPoint> ParseMetricPoint(const nlohmann::json& point);

// Every per-class vector has one entry for each of class_names, and worst_class is one of them.
absl::Status CheckMetricPoint(const ham::v1::MetricPoint& point);

}  // namespace ham::agent
