// The file of the store: its tables, its one row of facts about the whole, and how it is opened.
//
//   meta      one row: cluster_id, log_epoch, term, commits (transactions so far)
//   jobs      JobRow by name; id is the job's number in records
//   contents  JobContent by job
//   workers   WorkerRow by worker_id
//   records   JobRecord by key = id * 2^40 + sequence, so that the log of a job lies together
//   spools    sequence by (job, attempt, rank)
//   requests  RequestRow by (principal, request_id)
//
// `row` columns are messages of stored_rows.proto (records: ham.v1.JobRecord). `crc` is Crc32c over table, key and row.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/sqlite.h"

namespace ham::server {

inline constexpr int64_t kMaxSequence = (int64_t{1} << 40) - 1;
// Of the records of a job: those of sequence 1 and of kMaxSequence.
inline int64_t FirstKey(int64_t job_id) { return (job_id << 40) + 1; }
inline int64_t FinalKey(int64_t job_id) { return (job_id << 40) + kMaxSequence; }

// By so much terms, sessions and attempts grow with a restore: more than there can have been since the backup.
inline constexpr int kRestoreStep = 1000000;

// The row of meta.
struct StoreHead {
  std::string cluster_id;
  std::string log_epoch;
  int64_t term = 0;
  int64_t commits = 0;
};

// Opens for writing: WAL, synced at each commit. FAILED_PRECONDITION for a file of a newer release or not of ours.
absl::StatusOr<std::unique_ptr<Database>> OpenForWriting(const std::string& path);
// Makes the tables where there are none, and makes a term one above the last durable.
absl::StatusOr<StoreHead> BeginTerm(Database* database);
// Makes a new log_epoch, and a term kRestoreStep above the last durable: the file comes from a backup.
absl::StatusOr<StoreHead> BeginEpoch(Database* database);
// DATA_LOSS when it is missing or damaged.
absl::StatusOr<StoreHead> ReadHead(Database* database);

int64_t HeadCrc(const StoreHead& head);
int64_t RowCrc(std::string_view table, std::string_view key, std::string_view row);
// The error for a row whose CRC or bytes are wrong.
absl::Status DamagedRow(const Database& database, std::string_view table, std::string_view key);

// What a row is called in RowCrc and DamagedRow.
std::string RecordKey(std::string_view job, int64_t sequence);
std::string SpoolKey(std::string_view job, int attempt, int rank);
std::string RequestKey(std::string_view principal, std::string_view request_id);

}  // namespace ham::server
