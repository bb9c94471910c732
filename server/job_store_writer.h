// The writing connection of JobStore and its prepared statements.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/job_store_schema.h"
#include "server/store.h"

namespace ham::server {

// One thread. Not to be used after an error: close it.
class StoreWriter {
 public:
  explicit StoreWriter(std::unique_ptr<Database> database);

  // One transaction, durable when it returns OK. Counts itself: head.commits is how many there were before. Errors as
  // JobStore::Commit.
  absl::Status Commit(const StoreHead& head, const Transaction& transaction);
  Database* database() { return database_.get(); }

 private:
  absl::Status CountCommit(const StoreHead& head);
  absl::Status Write(const Transaction& transaction);
  absl::Status WriteRecords(const std::string& job,
                            const std::vector<std::shared_ptr<const ham::v1::JobRecord>>& records);
  absl::Status WriteSpool(const SpoolRow& row);
  absl::Status WriteRequests(const std::vector<RequestRow>& rows);
  // Statements of the form (key, row, crc).
  absl::Status Put(Statement* put, const char* table, const std::string& key, const std::string& row);
  absl::StatusOr<int64_t> JobId(const std::string& job);
  absl::StatusOr<int64_t> LastKey(int64_t job_id);

  const std::unique_ptr<Database> database_;  // outlives the statements
  Statement count_;
  Statement put_job_;
  Statement put_content_;
  Statement put_worker_;
  Statement job_id_;
  Statement last_key_;
  Statement put_record_;
  Statement put_spool_;
  Statement prune_requests_;
  Statement put_request_;
};

}  // namespace ham::server
