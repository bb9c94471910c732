// The file that says what a backup holds. It is written last: a directory without it is no backup.
//
//   manifest.json   {"manifest": {...}, "sha256": of the canonical text (keys in order, no blanks) of the first}
//   manifest        format_version (1), cluster_id, time (RFC 3339), files [{name, bytes, sha256}], left_out
//   [sentences]
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/durable_files.h"

namespace ham::server {

struct BackupManifest {
  std::string cluster_id;
  absl::Time time;                         // of the copy of the database
  std::map<std::string, FileFacts> files;  // by name below the directory
  std::vector<std::string> left_out;       // what was damaged or missing, a sentence each
};

absl::Status WriteBackupManifest(const std::string& directory, const BackupManifest& manifest);
// FAILED_PRECONDITION for a directory without one and for one of a newer release; DATA_LOSS for an altered one.
absl::StatusOr<BackupManifest> ReadBackupManifest(const std::string& directory);

}  // namespace ham::server
