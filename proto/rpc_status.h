// absl::Status to gRPC and back, with google.rpc details. The codes are equal.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "grpcpp/support/status.h"
#include "proto/job_spec.h"

namespace ham {

// Attaches a machine-readable reason (UPPER_SNAKE_CASE) that travels as ErrorInfo.reason.
absl::Status WithReason(absl::Status status, const std::string& reason);
std::string ReasonOf(const absl::Status& status);  // "" if none

// INVALID_ARGUMENT, reason INVALID_FIELD, message = first violation, BadRequest details with as many as fit (four at
// least); long texts are cut.
absl::Status InvalidFields(const std::vector<FieldViolation>& violations);
std::vector<FieldViolation> FieldViolationsOf(const absl::Status& status);

// Long messages are cut: what does not fit into 8 KiB of metadata would not arrive at all.
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace ham
