// Calls of the loop that wait for its answer. Not on the loop's own thread.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "server/coordinator_loop.h"

namespace ham::server {

// Runs `read` with committed state on the loop's thread; its error, or the loop's refusal.
absl::Status ReadAndWait(CoordinatorLoop* loop, const std::function<absl::Status(const CoordinatorLoop::View&)>& read);
// CoordinatorLoop::Apply.
absl::Status ApplyAndWait(CoordinatorLoop* loop, Event event);
// CoordinatorLoop::CreateJob.
absl::StatusOr<JobRow> CreateJobAndWait(CoordinatorLoop* loop, NewJob job);

}  // namespace ham::server
