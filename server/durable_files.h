// Files brought from one directory to another such that they outlive a loss of power.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ham::server {

struct FileFacts {
  int64_t bytes = 0;
  std::string sha256;  // lower-case hex
  bool operator==(const FileFacts&) const = default;
};

// Errors of all: NOT_FOUND for a missing file; DATA_LOSS for one whose disk cannot give its bytes; RESOURCE_EXHAUSTED
// for a full disk; else UNAVAILABLE. Any thread.

// Of a read() of `path` that failed with `error`.
absl::Status ReadError(const std::string& path, int error);
absl::StatusOr<FileFacts> ReadFacts(const std::string& path);
// `to` must not exist; it can be read by its owner alone. Synced, but for its name.
absl::StatusOr<FileFacts> CopyFile(const std::string& from, const std::string& to);
// The same by a second name of the file where the file system can.
absl::StatusOr<FileFacts> LinkOrCopyFile(const std::string& from, const std::string& to);
absl::Status SyncFile(const std::string& path);
// Makes a directory where there is none, and its name durable.
absl::Status MakeDirectory(const std::string& path);
// Names in the directory and in all below it.
absl::Status SyncNames(const std::string& directory);
// FAILED_PRECONDITION where the directory exists and holds anything.
absl::Status CheckEmptyDirectory(const std::string& path);

}  // namespace ham::server
