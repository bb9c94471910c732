// Folders of ranks: STATE_DIR/work/<job id>/<attempt>/<rank>.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace ham::agent {

// "" when `job` is no name of the form projects/{p}/jobs/{id}. Pure.
std::string WorkDirectory(const std::string& state_dir, const std::string& job, int attempt, int rank);

// Makes it, empty. Unavailable, naming the path.
absl::Status MakeWorkDirectory(const std::string& directory);
// With the folders above it that became empty. A folder that cannot be removed is logged.
void RemoveWorkDirectory(const std::string& directory);
// What an earlier agent left in STATE_DIR/work. Unavailable if it cannot be removed.
absl::Status RemoveAllWork(const std::string& state_dir);

}  // namespace ham::agent
