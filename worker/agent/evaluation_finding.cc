#include "worker/agent/evaluation_finding.h"

#include <google/protobuf/util/json_util.h>

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"

namespace ham::agent {
namespace {

absl::Status Refused(const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat("the trainer sent a finding ", what, ": agent and trainer do not match"));
}

absl::Status CheckBlock(const ham::v1::EvaluationBlock& block) {
  const int rows = block.rows_size();
  if (block.stage() < -1) return Refused(absl::StrCat("whose block.stage is ", block.stage(), "; -1 is the lowest"));
  if (rows == 0) return Refused("whose block.rows is empty");
  if (block.predictions_size() != rows || block.margins_size() != rows) {
    return Refused(absl::StrCat("whose block has ", rows, " rows, ", block.predictions_size(), " predictions and ",
                                block.margins_size(), " margins"));
  }
  for (int i = 0; i < rows; ++i) {
    if (i > 0 && block.rows(i) <= block.rows(i - 1)) {
      return Refused(absl::StrCat("whose block.rows has ", block.rows(i), " behind ", block.rows(i - 1)));
    }
    if (block.predictions(i) < 0) {
      return Refused(absl::StrCat("whose block.predictions holds ", block.predictions(i), "; classes are 0 or more"));
    }
  }
  if (!(block.seconds() >= 0) || std::isinf(block.seconds())) {
    return Refused(absl::StrCat("whose block.seconds is ", block.seconds(), "; 0 is the lowest"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckFinding(const ham::v1::EvaluationFinding& finding) {
  if (finding.kind_case() == ham::v1::EvaluationFinding::KIND_NOT_SET) {
    return Refused("without inputs, block or checks");
  }
  if (finding.has_block()) return CheckBlock(finding.block());
  for (const ham::v1::EvaluationWarning& warning : finding.checks().warnings()) {
    if (warning.type() == ham::v1::EvaluationWarning::TYPE_UNSPECIFIED ||
        !ham::v1::EvaluationWarning::Type_IsValid(warning.type())) {
      return Refused(absl::StrCat("whose checks.warnings holds the type ", static_cast<int>(warning.type())));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ham::v1::EvaluationFinding> ParseFinding(const nlohmann::json& json) {
  ham::v1::EvaluationFinding finding;
  const google::protobuf::util::Status parsed = google::protobuf::util::JsonStringToMessage(json.dump(), &finding);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the trainer sent a finding that is no EvaluationFinding: ", std::string(parsed.message())));
  }
  if (const size_t bytes = finding.ByteSizeLong(); bytes > kMostFindingBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the trainer sent a finding of ", bytes, " bytes; at most ", kMostFindingBytes, " are allowed"));
  }
  if (absl::Status status = CheckFinding(finding); !status.ok()) return status;
  return finding;
}

}  // namespace ham::agent
