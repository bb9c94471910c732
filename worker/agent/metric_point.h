// Metric points of a trainer: from untrusted JSON to a message that every reader may rely on.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ham/v1/metrics.pb.h"

namespace ham::agent {

// A longer record could keep a report from ever being taken.
inline constexpr size_t kMostPointBytes = 1 << 20;

// From the JSON of a `metric` frame, parsed strictly (ipc::ReadFrame). InvalidArgument in one sentence for unknown
// fields, wrong types, a missing kind, more than kMostPointBytes, or vectors that CheckMetricPoint refuses. Any thread.
absl::StatusOr<ham::v1::MetricPoint> ParseMetricPoint(const nlohmann::json& point);

// Of an evaluation: the split is a known one, every per-class vector has one entry for each of class_names, and
// worst_class is one of them. Of a train point: vectors by class and step have lengths that fit each other, stand where
// metrics.proto says, and counts are not negative.
absl::Status CheckMetricPoint(const ham::v1::MetricPoint& point);

}  // namespace ham::agent
