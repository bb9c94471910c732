// What the coordinator asks of its durable store.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "ham/v1/job_service.pb.h"
#include "server/coordinator.h"

namespace ham::server {

// What a job has beside its JobRow; never changes.
struct JobContent {
  ham::v1::JobSpec spec;  // resolved
  std::map<std::string, std::string> labels;
};

// A request_id that a principal used.
struct RequestRow {
  std::string principal;
  std::string request_id;
  std::string request_hash;  // of the request as sent
  std::string job;           // that it made
  absl::Time time;
};

// How much of a rank's spool the log holds.
struct SpoolRow {
  std::string job;
  int attempt = 0;
  int rank = 0;
  int64_t sequence = 0;
};

// All of it becomes durable, or nothing.
struct Transaction {
  std::map<std::string, JobRow> jobs;
  std::map<std::string, JobContent> contents;  // of new jobs
  std::map<std::string, WorkerRow> workers;
  std::map<std::string, std::vector<std::shared_ptr<const ham::v1::JobRecord>>> records;  // by job, sequence set
  std::vector<SpoolRow> spools;
  std::vector<RequestRow> requests;
  bool empty() const {
    return jobs.empty() && workers.empty() && records.empty() && spools.empty() && requests.empty();
  }
};

// Commit and Reopen are called by one thread; the rest by any.
// State reason of a job whose row is damaged: what it named is not known.
inline constexpr char kRowDamaged[] = "ROW_DAMAGED";

class Store {
 public:
  struct Contents {
    std::vector<JobRow> jobs;  // one whose row is damaged is FAILED, with reason ROW_DAMAGED
    std::vector<WorkerRow> workers;
    std::map<std::string, int64_t> last_sequence;  // by job
    std::vector<std::string> damaged_jobs;         // a sentence each
  };

  virtual ~Store() = default;

  virtual absl::StatusOr<Contents> Load() = 0;
  // Durable when it returns OK. After an error the store takes no transaction until Reopen succeeds; reads go on.
  virtual absl::Status Commit(const Transaction& transaction) = 0;
  virtual absl::Status Reopen() = 0;

  // NOT_FOUND.
  virtual absl::StatusOr<JobContent> GetContent(const std::string& job) = 0;
  // Its labels alone, for lists: a spec may be a hundred times as long.
  virtual absl::StatusOr<std::map<std::string, std::string>> GetLabels(const std::string& job) = 0;
  // Records with sequence > after, ascending, up to `limit`, and no more once they have `bytes`. OUT_OF_RANGE when they
  // were pruned.
  virtual absl::StatusOr<std::vector<std::shared_ptr<const ham::v1::JobRecord>>> ReadLog(const std::string& job,
                                                                                         int64_t after, int limit,
                                                                                         size_t bytes) = 0;
  // 0 when there is none.
  virtual absl::StatusOr<int64_t> GetSpool(const std::string& job, int attempt, int rank) = 0;
  // Not older than `since`.
  virtual absl::StatusOr<std::optional<RequestRow>> GetRequest(const std::string& principal,
                                                               const std::string& request_id, absl::Time since) = 0;
};

}  // namespace ham::server
