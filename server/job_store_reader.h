// The reading connection of JobStore and its prepared statements.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/job_store_schema.h"
#include "server/store.h"

namespace ham::server {

// One thread at a time. Errors and results as JobStore's; after an error it may be asked again.
class StoreReader {
 public:
  explicit StoreReader(std::unique_ptr<Database> database);

  // OK when the file can be read.
  absl::Status Probe();
  absl::StatusOr<Store::Contents> Load();
  absl::StatusOr<JobContent> GetContent(const std::string& job);
  absl::StatusOr<std::map<std::string, std::string>> GetLabels(const std::string& job);
  absl::StatusOr<std::vector<std::shared_ptr<const ham::v1::JobRecord>>> ReadLog(const std::string& job, int64_t after,
                                                                                 int limit, size_t bytes);
  absl::StatusOr<int64_t> GetSpool(const std::string& job, int attempt, int rank);
  absl::StatusOr<std::optional<RequestRow>> GetRequest(const std::string& principal, const std::string& request_id,
                                                       absl::Time since);

 private:
  // The row of contents; its CRC is right.
  absl::StatusOr<std::string> ContentBytes(const std::string& job);
  absl::Status LoadJobs(Store::Contents* contents);
  absl::Status LoadWorkers(Store::Contents* contents);
  // Why the record after `after` is missing although later ones are there.
  absl::Status MissingRecord(const std::string& job, int64_t job_id, int64_t after);

  const std::unique_ptr<Database> database_;  // outlives the statements
  Statement content_;
  Statement job_id_;
  Statement records_;
  Statement spool_;
  Statement request_;
};

}  // namespace ham::server
