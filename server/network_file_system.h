// Where a database must not lie: on file systems whose locks and syncs cannot be relied on.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"

namespace ham::server {

// By statfs.f_type; nothing for local ones.
std::optional<std::string> NetworkFileSystemName(uint32_t type);
// FAILED_PRECONDITION if the directory of `path` lies on one; UNAVAILABLE if it cannot be looked at. Any thread.
absl::Status RefuseNetworkFileSystem(const std::string& path);

}  // namespace ham::server
