#include "server/job_store.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/job_store_reader.h"
#include "server/job_store_writer.h"
#include "server/network_file_system.h"

namespace ham::server {
namespace {

// Pages of 4 KiB. From the first number on each commit tries to move the log into the main file; from the second on
// readers wait meanwhile, so that the log cannot grow without end.
constexpr int kCheckpointPages = 2000;
constexpr int kMostLogPages = 16000;

}  // namespace

JobStore::JobStore(std::string path, const StoreHead& head)
    : path_(std::move(path)),
      cluster_id_(head.cluster_id),
      log_epoch_(head.log_epoch),
      term_(head.term),
      commits_(head.commits) {}

JobStore::~JobStore() = default;

absl::StatusOr<std::unique_ptr<JobStore>> JobStore::Open(const std::string& path) {
  if (const absl::Status status = RefuseNetworkFileSystem(path); !status.ok()) return status;
  absl::StatusOr<std::unique_ptr<Database>> database = OpenForWriting(path);
  if (!database.ok()) return database.status();
  const absl::StatusOr<StoreHead> head = BeginTerm(database->get());
  if (!head.ok()) return head.status();
  std::unique_ptr<JobStore> store(new JobStore(path, *head));
  store->writer_ = std::make_unique<StoreWriter>(*std::move(database));
  if (const absl::Status status = store->OpenReader(); !status.ok()) return status;
  return store;
}

absl::Status JobStore::OpenReader() {
  absl::StatusOr<std::unique_ptr<Database>> database = Database::Open(path_, Database::Mode::kReadOnly);
  if (!database.ok()) return database.status();
  auto reader = std::make_unique<StoreReader>(*std::move(database));
  // The first read is what opens the shared index.
  if (const absl::Status status = reader->Probe(); !status.ok()) return status;
  absl::MutexLock lock(&read_mutex_);
  reader_ = std::move(reader);
  return absl::OkStatus();
}

void JobStore::CloseWriter(const absl::Status& reason) {
  writer_ = nullptr;
  failure_ = reason;
}

absl::Status JobStore::Commit(const Transaction& transaction) {
  if (writer_ == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("the store is closed until it can be opened again, since: ", std::string(failure_.message())));
  }
  if (transaction.empty()) return absl::OkStatus();
  const absl::Status status = writer_->Commit({cluster_id_, log_epoch_, term_, commits_}, transaction);
  if (!status.ok()) {
    CloseWriter(status);
    return status;
  }
  ++commits_;
  Checkpoint();
  return absl::OkStatus();
}

// What was committed is durable whatever happens here; so a failure is that of the next commit.
void JobStore::Checkpoint() {
  Database* database = writer_->database();
  if (database->log_pages() < kCheckpointPages) return;
  absl::Status status;
  if (database->log_pages() < kMostLogPages) {
    status = database->Checkpoint();
  } else {
    absl::MutexLock lock(&read_mutex_);
    status = database->Checkpoint();
  }
  if (!status.ok()) CloseWriter(status);
}

absl::Status JobStore::Reopen() {
  CloseWriter(failure_);
  absl::StatusOr<std::unique_ptr<Database>> database = OpenForWriting(path_);
  if (!database.ok()) return database.status();
  if (const absl::Status status = CheckHead(database->get()); !status.ok()) return status;
  auto writer = std::make_unique<StoreWriter>(*std::move(database));
  // An empty transaction, counted like any: SQLite writes nothing for values that do not change.
  const absl::Status written = writer->Commit({cluster_id_, log_epoch_, term_, commits_}, Transaction());
  if (!written.ok()) return written;
  ++commits_;
  // Reads all of the file: not while it takes no writes anyway.
  if (const absl::Status status = CheckFile(writer->database()); !status.ok()) return status;
  if (const absl::Status status = OpenReader(); !status.ok()) return status;
  writer_ = std::move(writer);
  return absl::OkStatus();
}

absl::Status JobStore::CheckFile(Database* database) const {
  const absl::StatusOr<std::string> check = database->QueryText("PRAGMA quick_check(1)");
  if (!check.ok()) return check.status();
  if (*check != "ok") {
    return absl::DataLossError(
        absl::StrCat(path_, " is damaged (", *check, "); restore the state directory from a backup"));
  }
  return absl::OkStatus();
}

absl::Status JobStore::CheckHead(Database* database) const {
  const absl::StatusOr<StoreHead> head = ReadHead(database);
  if (!head.ok()) return head.status();
  if (head->term != term_ || head->cluster_id != cluster_id_) {
    return absl::FailedPreconditionError(absl::StrCat(path_, " was taken over by another coordinator (term ",
                                                      head->term, ", ours is ", term_, "): stop one of them"));
  }
  if (head->commits < commits_) {
    return absl::DataLossError(absl::StrCat(path_, " lost ", commits_ - head->commits,
                                            " committed transactions; replace its disk and restore a backup"));
  }
  if (head->commits > commits_) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, " holds a transaction that had failed: restart the coordinator"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Store::Contents> JobStore::Load() {
  absl::MutexLock lock(&read_mutex_);
  return reader_->Load();
}

absl::StatusOr<JobContent> JobStore::GetContent(const std::string& job) {
  absl::MutexLock lock(&read_mutex_);
  return reader_->GetContent(job);
}

absl::StatusOr<std::map<std::string, std::string>> JobStore::GetLabels(const std::string& job) {
  absl::MutexLock lock(&read_mutex_);
  return reader_->GetLabels(job);
}

absl::StatusOr<std::vector<std::shared_ptr<const ham::v1::JobRecord>>> JobStore::ReadLog(const std::string& job,
                                                                                         int64_t after, int limit,
                                                                                         size_t bytes) {
  absl::MutexLock lock(&read_mutex_);
  return reader_->ReadLog(job, after, limit, bytes);
}

absl::StatusOr<int64_t> JobStore::GetSpool(const std::string& job, int attempt, int rank) {
  absl::MutexLock lock(&read_mutex_);
  return reader_->GetSpool(job, attempt, rank);
}

absl::StatusOr<std::optional<RequestRow>> JobStore::GetRequest(const std::string& principal,
                                                               const std::string& request_id, absl::Time since) {
  absl::MutexLock lock(&read_mutex_);
  return reader_->GetRequest(principal, request_id, since);
}

}  // namespace ham::server
