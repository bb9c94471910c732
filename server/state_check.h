// Everything in a state directory against its checksum.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace ham::server {

struct StateReport {
  size_t jobs = 0;
  size_t artifacts = 0;
  std::vector<std::string> damage;  // a sentence each
};

// NOT_FOUND where the directory is none of a coordinator that has run.
absl::Status CheckHasRun(const std::string& state_dir);

// Reads all rows and all artifacts. Errors of CheckHasRun; FAILED_PRECONDITION while a coordinator runs;
// UNAVAILABLE where a disk cannot be read.
absl::StatusOr<StateReport> CheckState(const std::string& state_dir);

}  // namespace ham::server
