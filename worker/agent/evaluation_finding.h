// Findings of a trainer that evaluates: from untrusted JSON to a message that every reader may rely on.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ham/v1/evaluation.pb.h"
#include "proto/worker_rules.h"

namespace ham::agent {

// From the JSON of a `finding` frame, parsed strictly (ipc::ReadFrame). InvalidArgument in one sentence for unknown
// fields, wrong types, more than kMostFindingBytes, or what CheckFinding refuses. Any thread.
absl::StatusOr<ham::v1::EvaluationFinding> ParseFinding(const nlohmann::json& finding);

// It has a kind. Of a block: rows ascend, there is one at least, each has a prediction and a margin, and numbers are in
// their ranges; of checks: every warning is of a known type.
absl::Status CheckFinding(const ham::v1::EvaluationFinding& finding);

}  // namespace ham::agent
