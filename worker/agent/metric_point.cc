#include "worker/agent/metric_point.h"

#include <google/protobuf/util/json_util.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace ham::agent {
namespace {

absl::Status CheckLength(const std::string& field, int length, int classes) {
  if (length == classes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the trainer sent a metric whose ", field, " has ", length,
                                                 " entries for ", classes,
                                                 " classes; one a class is needed: agent and trainer do not match"));
}

absl::Status CheckSuite(const ham::v1::SuiteMetrics& suite, int classes) {
  const std::string field = absl::StrCat("suites[", suite.name(), "].");
  const absl::Status status =
      CheckLength(field + "per_class_robust_accuracy", suite.per_class_robust_accuracy_size(), classes);
  if (!status.ok()) return status;
  if (suite.worst_class() >= 0 && suite.worst_class() < classes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the trainer sent a metric whose ", field, "worst_class is ",
                                                 suite.worst_class(), "; allowed is 0 to ", classes - 1));
}

}  // namespace

absl::Status CheckMetricPoint(const ham::v1::MetricPoint& point) {
  if (point.kind_case() == ham::v1::MetricPoint::KIND_NOT_SET) {
    return absl::InvalidArgumentError("the trainer sent a metric without train, evaluation or summary");
  }
  if (!point.has_evaluation()) return absl::OkStatus();
  const ham::v1::EvaluationMetrics& evaluation = point.evaluation();
  const int classes = evaluation.class_names_size();
  if (classes == 0) return absl::InvalidArgumentError("the trainer sent an evaluation whose class_names is empty");
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
