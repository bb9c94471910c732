// Files of evaluation records, unsigned or signed: ham.v1.SignedEvaluationRecord in canonical JSON
// (proto/ham/v1/evaluation.proto). Any thread.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/evaluation/evaluation_record.h"
#include "proto/evaluation/signing_key.h"

namespace ham {

inline constexpr size_t kMostRecordFileBytes = 64 << 20;

struct RecordFile {
  EvaluationRecord record;
  std::string signed_by;  // public key as base64; "": unsigned
};

// Of a record that MakeRecord made.
std::string UnsignedRecordFile(const EvaluationRecord& record);

// The file with a signature. Errors of ParseRecordFile, so that nothing is signed that no one could read;
// FailedPrecondition if it is signed already.
absl::StatusOr<std::string> SignRecordFile(const std::string& file, const SigningKey& key);

// All of it is checked: form, signature if there is one, contents (CheckRecord). DataLoss in one sentence for what is
// cut off, too large, no such JSON, not canonical, altered after it was signed, or contradicts itself;
// FailedPrecondition for another format version.
absl::StatusOr<RecordFile> ParseRecordFile(const std::string& file);

// Whether `file` is signed, and by `public_key` (base64) unless that is empty. FailedPrecondition if not.
absl::Status RequireSigner(const RecordFile& file, const std::string& public_key);

// Reads and checks a whole file; with `signed_by` that must have signed it (RequireSigner). NotFound if it cannot be
// opened; all errors name it.
absl::StatusOr<RecordFile> ReadRecordFile(const std::string& path,
                                          const std::optional<std::string>& signed_by = std::nullopt);

}  // namespace ham
