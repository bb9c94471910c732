// Files that appear whole or not at all.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace ham {

// Writes beside `path`, syncs, renames, syncs the directory. RESOURCE_EXHAUSTED for a full disk, else UNAVAILABLE; both
// name the path. Any thread.
absl::Status WriteFileAtomically(const std::string& path, std::string_view text, mode_t mode);
// Makes renames and new files in `directory` durable.
absl::Status SyncDirectory(const std::string& directory);
// The error of the last system call on `path` as one sentence.
absl::Status FileError(const std::string& what, const std::string& path, int error_number);

}  // namespace ham
