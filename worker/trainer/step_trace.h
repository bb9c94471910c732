// A trace of training steps in Chrome's format, for Perfetto and chrome://tracing.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/trainer/collective.h"
#include "worker/trainer/step_profile.h"

namespace ham::trainer {

// Complete events ("X") of one rank, which is their process: steps, in them phases, in those attack steps and passes.
// Times are microseconds since the first span began.
nlohmann::json TraceEvents(const std::vector<StepProfile::Span>& spans, int rank);

// The trace of all ranks, as text; "" on all but rank 0. Their first spans began together. All ranks make this call.
// Errors are the collective's.
absl::StatusOr<std::string> GatherTrace(const std::vector<StepProfile::Span>& spans, Collective& collective);

}  // namespace ham::trainer
