// Every row of the store against its checksum.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/sqlite.h"

namespace ham::server {

// What is damaged or missing, a sentence each. UNAVAILABLE when the file cannot be read.
absl::StatusOr<std::vector<std::string>> FindDamagedRows(Database* database);

}  // namespace ham::server
