// Records of evaluations from files.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "proto/evaluation/record_file.h"

namespace ham::client {

// Reads and checks the whole file; with `signed_by` it must be signed with that public key. NotFound if there is no
// such file, else the errors of ParseRecordFile and RequireSigner; all name the file.
absl::StatusOr<RecordFile> ReadEvaluation(const std::string& path, const std::optional<std::string>& signed_by);

}  // namespace ham::client
