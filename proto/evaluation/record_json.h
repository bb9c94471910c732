// Parts of records as JSON, in the form of proto/ham/v1/evaluation.proto. Pure.
#pragma once

#include <string>

#include <nlohmann/json.hpp>
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/evaluation/evaluation_record.h"

namespace ham {

nlohmann::json RecordJson(const EvaluationRecord& record);
nlohmann::json FiguresJson(const EvaluationFigures& figures);
nlohmann::json EstimateJson(const Estimate& estimate);
// Non-finite ones are text.
nlohmann::json NumberJson(double value);

// Every field, and no other; CheckRecord looks at what they say. DataLoss names the first field that is missing,
// unknown or no such value; FailedPrecondition for another format version.
absl::StatusOr<EvaluationRecord> ReadRecordJson(const nlohmann::json& json);

}  // namespace ham
