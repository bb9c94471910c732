// Records in the form of RobustBench's model information (its files model_info/DATA/THREAT/MODEL.json). Pure.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/options.h"
#include "proto/evaluation/evaluation_record.h"

namespace ham::client {

// With what `facts` adds; accuracies in per cent as text, and "unreliable" if the record is not trusted.
// FailedPrecondition unless the record is of test images and of AutoAttack in its standard version, which is what that
// form stands for.
absl::StatusOr<std::string> RobustBenchJson(const EvaluationRecord& record, const EvalExportOptions& facts);

}  // namespace ham::client
