// A copy of the state directory, made while a coordinator runs on it or not, and a state directory from such a copy.
//
// A backup holds manifest.json (backup_manifest.h), ham.db, the files of the identity that are not made anew, and in
// artifacts/ what the rows name. Complete artifacts never change, so those are second names of the same files where the
// file system has them; copy the backup to another disk.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace ham::server {

struct BackupSummary {
  std::string cluster_id;
  absl::Time time;
  size_t jobs = 0;
  size_t artifacts = 0;
  int64_t bytes = 0;
  std::vector<std::string> left_out;  // what was damaged or missing, a sentence each
};

// Copies `state_dir` to `directory`, which must be empty or new. All that was committed before the call is in it, and
// one state of all. What is damaged is left out and named. NOT_FOUND where `state_dir` is none; FAILED_PRECONDITION
// where `directory` holds anything; DATA_LOSS for a database that cannot be read; errors of disks. After an error
// `directory` is no backup.
absl::StatusOr<BackupSummary> BackUp(const std::string& state_dir, const std::string& directory, absl::Time now);

struct RestoreSummary {
  BackupSummary backup;
  std::vector<std::string> started_again;  // jobs that were at work
};

// Makes `state_dir`, which must be empty or new, the state of the backup, with a new log epoch and all fences raised
// (job_store_restore.h). FAILED_PRECONDITION where it holds anything, and for a directory that is no finished backup;
// DATA_LOSS, naming the file, where the backup is damaged. After an error `state_dir` is empty.
absl::StatusOr<RestoreSummary> Restore(const std::string& directory, const std::string& state_dir, absl::Time now);

// FAILED_PRECONDITION for a state directory whose restore was cut off.
absl::Status CheckRestoreFinished(const std::string& state_dir);

}  // namespace ham::server
