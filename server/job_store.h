// The Store in one SQLite file: WAL, synced at each commit, a CRC-32C in each row.
#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/sqlite.h"
#include "server/store.h"

namespace ham::server {

class JobStore final : public Store {
 public:
  // Makes the file when missing, and begins a new term. FAILED_PRECONDITION for a file of a newer release or on a
  // network file system (their locks and syncs cannot be relied on); DATA_LOSS for a damaged one.
  static absl::StatusOr<std::unique_ptr<JobStore>> Open(const std::string& path);
  ~JobStore() override;

  const std::string& cluster_id() const { return cluster_id_; }
  const std::string& log_epoch() const { return log_epoch_; }
  int64_t term() const { return term_; }

  absl::StatusOr<Contents> Load() override;
  absl::Status Commit(const Transaction& transaction) override;
  absl::Status Reopen() override;
  absl::StatusOr<JobContent> GetContent(const std::string& job) override;
  absl::StatusOr<std::vector<std::shared_ptr<const ham::v1::JobRecord>>> ReadLog(const std::string& job, int64_t after,
                                                                                 int limit) override;
  absl::StatusOr<int64_t> GetSpool(const std::string& job, int attempt, int rank) override;
  absl::StatusOr<std::optional<RequestRow>> GetRequest(const std::string& principal, const std::string& request_id,
                                                       absl::Time since) override;

 private:
  class Writer;  // the writing connection and its statements
  class Reader;  // the same for reads

  explicit JobStore(std::string path);
  absl::Status OpenWriter();
  absl::Status OpenReader() ABSL_LOCKS_EXCLUDED(read_mutex_);
  absl::Status BeginTerm();

  const std::string path_;
  std::string cluster_id_;
  std::string log_epoch_;
  int64_t term_ = 0;
  std::unique_ptr<Writer> writer_;  // null after a failed commit
  absl::Mutex read_mutex_;
  std::unique_ptr<Reader> reader_ ABSL_GUARDED_BY(read_mutex_);
};

}  // namespace ham::server
