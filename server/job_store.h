// The Store in one SQLite file: write-ahead log, synced at each commit, a CRC-32C in each row. job_store_schema.h tells
// the tables.
//
// Each transaction checks that the term in the file is still ours and counts itself; so a second coordinator on the
// same file is noticed, and so is a disk that lost what it had promised to keep.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/job_store_schema.h"
#include "server/store.h"

namespace ham::server {

class StoreReader;
class StoreWriter;

class JobStore final : public Store {
 public:
  // Makes the file when missing and begins a new term, durably. FAILED_PRECONDITION for a file of a newer release or of
  // another program, or on a network file system; DATA_LOSS for a damaged one; UNAVAILABLE when it cannot be opened.
  static absl::StatusOr<std::unique_ptr<JobStore>> Open(const std::string& path);
  ~JobStore() override;

  // Random, made with the file. Any thread.
  const std::string& cluster_id() const { return cluster_id_; }
  const std::string& log_epoch() const { return log_epoch_; }
  // Grows with each Open. Any thread.
  int64_t term() const { return term_; }

  // Reads: DATA_LOSS, naming table and row, for what is damaged; UNAVAILABLE when the file cannot be read.

  absl::StatusOr<Contents> Load() override;
  // Records of a job must follow those that the log holds, without a gap, else INTERNAL; FAILED_PRECONDITION when
  // another coordinator took the file over; UNAVAILABLE when it cannot be written. A failed sync is not tried again:
  // the connection is closed, and what failed is not in the file after Reopen (after a crash it may be, whole).
  absl::Status Commit(const Transaction& transaction) override;
  // Opens the file anew and checks that it holds what was committed under our term, no more and no less
  // (FAILED_PRECONDITION, DATA_LOSS); proves by a synced write that it takes transactions; then checks all of it, which
  // takes seconds a GiB.
  absl::Status Reopen() override;

  absl::StatusOr<JobContent> GetContent(const std::string& job) override;
  absl::StatusOr<std::map<std::string, std::string>> GetLabels(const std::string& job) override;
  // NOT_FOUND for an unknown job; DATA_LOSS when a record in the middle is missing.
  absl::StatusOr<std::vector<std::shared_ptr<const ham::v1::JobRecord>>> ReadLog(const std::string& job, int64_t after,
                                                                                 int limit, size_t bytes) override
      ABSL_LOCKS_EXCLUDED(read_mutex_);
  absl::StatusOr<int64_t> GetSpool(const std::string& job, int attempt, int rank) override;
  // Requests are forgotten 7 days before the newest.
  absl::StatusOr<std::optional<RequestRow>> GetRequest(const std::string& principal, const std::string& request_id,
                                                       absl::Time since) override;

 private:
  JobStore(std::string path, const StoreHead& head);
  absl::Status OpenReader() ABSL_LOCKS_EXCLUDED(read_mutex_);
  absl::Status CheckFile(Database* database) const;
  absl::Status CheckHead(Database* database) const;
  void Checkpoint() ABSL_LOCKS_EXCLUDED(read_mutex_);
  void CloseWriter(const absl::Status& reason);

  const std::string path_;
  const std::string cluster_id_;
  const std::string log_epoch_;
  const int64_t term_;
  // Of the committing thread.
  int64_t commits_;
  std::unique_ptr<StoreWriter> writer_;  // null after a failure
  absl::Status failure_;                 // why
  // Stays open when the writer is closed: while any connection is open, SQLite's shared index says where the committed
  // part of the log ends, and what a failed commit left behind it never counts.
  absl::Mutex read_mutex_;
  std::unique_ptr<StoreReader> reader_ ABSL_GUARDED_BY(read_mutex_);
};

}  // namespace ham::server
