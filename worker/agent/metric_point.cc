#include "worker/agent/metric_point.h"

#include <google/protobuf/util/json_util.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "proto/utf8.h"

namespace ham::agent {
namespace {

constexpr int kConfidenceBins = 10;

absl::Status Mismatch(const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat("the trainer sent a metric whose ", what, ": agent and trainer do not match"));
}

absl::Status CheckLength(const std::string& field, int length, int classes) {
  if (length == classes) return absl::OkStatus();
  return Mismatch(absl::StrCat(field, " has ", length, " entries for ", classes, " classes; one a class is needed"));
}

absl::Status CheckCounts(const std::string& field, const google::protobuf::RepeatedField<int64_t>& counts) {
  for (const int64_t count : counts) {
    if (count < 0) return Mismatch(absl::StrCat(field, " holds ", count, "; counts are 0 or more"));
  }
  return absl::OkStatus();
}

absl::Status CheckTrain(const ham::v1::TrainMetrics& train) {
  const int hard_classes = train.per_class_hard_share_size();
  const int cells = train.confidence_histogram_size();
  if (!train.end_of_epoch() && (hard_classes > 0 || cells > 0)) {
    return Mismatch("per_class_hard_share or confidence_histogram is set before the end of an epoch");
  }
  if (cells % kConfidenceBins != 0 || (hard_classes > 0 && cells > 0 && cells != hard_classes * kConfidenceBins)) {
    return Mismatch(absl::StrCat("confidence_histogram has ", cells, " entries and per_class_hard_share ", hard_classes,
                                 "; ", kConfidenceBins, " and 1 a class are needed"));
  }
  if (const int steps = train.steps_to_boundary_size(); steps == 1 || steps == 2) {
    return Mismatch(absl::StrCat("steps_to_boundary has ", steps, " entries; none, or mining_step + 2 are needed"));
  }
  if (absl::Status status = CheckCounts("confidence_histogram", train.confidence_histogram()); !status.ok())
    return status;
  return CheckCounts("steps_to_boundary", train.steps_to_boundary());
}

absl::Status CheckSuite(const ham::v1::SuiteMetrics& suite, int classes) {
  const std::string field = absl::StrCat("suites[", suite.name(), "].");
  const absl::Status status =
      CheckLength(field + "per_class_robust_accuracy", suite.per_class_robust_accuracy_size(), classes);
  if (!status.ok()) return status;
  if (suite.worst_class() >= 0 && suite.worst_class() < classes) return absl::OkStatus();
  return Mismatch(absl::StrCat(field, "worst_class is ", suite.worst_class(), "; allowed is 0 to ", classes - 1));
}

}  // namespace

absl::Status CheckMetricPoint(const ham::v1::MetricPoint& point) {
  if (point.kind_case() == ham::v1::MetricPoint::KIND_NOT_SET) {
    return absl::InvalidArgumentError("the trainer sent a metric without train, evaluation, summary or notice");
  }
  if (point.has_train()) return CheckTrain(point.train());
  if (!point.has_evaluation()) return absl::OkStatus();
  const ham::v1::EvaluationMetrics& evaluation = point.evaluation();
  const int classes = evaluation.class_names_size();
  if (classes == 0) return absl::InvalidArgumentError("the trainer sent an evaluation whose class_names is empty");
  if (evaluation.split() != "test" && evaluation.split() != "validation") {
    return Mismatch(absl::StrCat("split is \"", Shown(evaluation.split()), "\"; allowed is test or validation"));
  }
  absl::Status status = CheckLength("per_class_rows", evaluation.per_class_rows_size(), classes);
  if (!status.ok()) return status;
  status = CheckLength("per_class_clean_accuracy", evaluation.per_class_clean_accuracy_size(), classes);
  if (!status.ok()) return status;
  for (const ham::v1::SuiteMetrics& suite : evaluation.suites()) {
    if (status = CheckSuite(suite, classes); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<ham::v1::MetricPoint> ParseMetricPoint(const nlohmann::json& json) {
  ham::v1::MetricPoint point;
  const google::protobuf::util::Status parsed = google::protobuf::util::JsonStringToMessage(json.dump(), &point);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the trainer sent a metric that is no MetricPoint: ", std::string(parsed.message())));
  }
  if (const size_t bytes = point.ByteSizeLong(); bytes > kMostPointBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the trainer sent a metric of ", bytes, " bytes; at most ", kMostPointBytes, " are allowed"));
  }
  const absl::Status status = CheckMetricPoint(point);
  if (!status.ok()) return status;
  return point;
}

}  // namespace ham::agent
