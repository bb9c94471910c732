// Files that hamctl makes, and never in place of others.
#pragma once

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ham::client {

// INVALID_ARGUMENT, which says that `flag` may name another file, if there is anything at `path`. To be asked before
// long work.
absl::Status CheckNothingAt(const std::string& path, const std::string& flag);

// A file descriptor of a new file. As CheckNothingAt, or CannotWrite.
absl::StatusOr<int> CreateFile(const std::string& path, mode_t mode, const std::string& flag);

// FAILED_PRECONDITION: no answer of the coordinator, nor that it has none.
absl::Status CannotWrite(const std::string& path, int error_number);

}  // namespace ham::client
