#include "server/job_store.h"

#include <openssl/rand.h>
#include <sys/vfs.h>

#include <functional>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/crc32c.h"
#include "server/stored_rows.h"

namespace ham::server {
namespace {

constexpr int kSchemaVersion = 1;
// PRAGMA full_fsync and friends are for other systems; on Linux synchronous=FULL syncs the log at each commit.
constexpr char kPragmas[] =
    "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=2000; PRAGMA foreign_keys=OFF;";
constexpr char kSchema[] = R"(
  CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
  CREATE TABLE jobs (name BLOB PRIMARY KEY, row BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
  CREATE TABLE contents (name BLOB PRIMARY KEY, row BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
  CREATE TABLE workers (worker_id BLOB PRIMARY KEY, row BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
  CREATE TABLE records (job BLOB NOT NULL, sequence INTEGER NOT NULL, row BLOB NOT NULL, crc INTEGER NOT NULL,
                        PRIMARY KEY (job, sequence)) WITHOUT ROWID;
  CREATE TABLE spools (job BLOB NOT NULL, attempt INTEGER NOT NULL, rank INTEGER NOT NULL, sequence INTEGER NOT NULL,
                       PRIMARY KEY (job, attempt, rank)) WITHOUT ROWID;
  CREATE TABLE requests (principal BLOB NOT NULL, request_id BLOB NOT NULL, hash BLOB NOT NULL, job BLOB NOT NULL,
                         time INTEGER NOT NULL, PRIMARY KEY (principal, request_id)) WITHOUT ROWID;
)";

int64_t CrcOf(std::string_view key, std::string_view row) { return Crc32c(row, Crc32c(key)); }

absl::Status Damaged(const std::string& table, const std::string& key) {
  return absl::DataLossError(
      absl::StrCat("the row of ", key, " in table ", table, " is damaged: restore the state directory from a backup"));
}

absl::StatusOr<std::string> NewId(size_t bytes) {
  std::string text(bytes, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(text.data()), static_cast<int>(bytes)) != 1) {
    return absl::InternalError("OpenSSL has no random numbers");
  }
  return absl::BytesToHexString(text);
}

absl::Status RefuseNetworkFileSystem(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  struct statfs info;
  if (::statfs(folder.c_str(), &info) != 0) return absl::OkStatus();  // opening it will say why
  switch (static_cast<uint32_t>(info.f_type)) {
    case 0x6969:      // NFS
    case 0xff534d42:  // CIFS
    case 0xfe534d42:  // SMB2
    case 0x65735546:  // FUSE: sshfs and the like
    case 0x0bd00bd0:  // Lustre
    case 0x00c36400:  // Ceph
      return absl::FailedPreconditionError(
          absl::StrCat(folder,
                       " lies on a network file system, whose locks and syncs are not reliable: give a "
                       "--state-dir on a local disk"));
    default:
      return absl::OkStatus();
  }
}

absl::StatusOr<std::string> GetMeta(Database* database, const char* name) {
  Statement get(database, "SELECT value FROM meta WHERE name = ?");
  const absl::StatusOr<bool> row = get.Bind(1, std::string_view(name)).Step();
  if (!row.ok()) return row.status();
  return *row ? get.Bytes(0) : "";
}

absl::Status SetMeta(Database* database, const char* name, const std::string& value) {
  return Statement(database, "INSERT OR REPLACE INTO meta VALUES (?, ?)")
      .Bind(1, std::string_view(name))
      .Bind(2, value)
      .Run();
}

// The rows of a (key, row, crc) table, checked, in key order.
absl::Status ReadAll(Database* database, const std::string& table, const std::string& key,
                     const std::function<bool(const std::string& row)>& take) {
  Statement all(database, absl::StrCat("SELECT ", key, ", row, crc FROM ", table, " ORDER BY ", key).c_str());
  while (true) {
    const absl::StatusOr<bool> more = all.Step();
    if (!more.ok()) return more.status();
    if (!*more) return absl::OkStatus();
    const std::string name = all.Bytes(0);
    const std::string row = all.Bytes(1);
    if (CrcOf(name, row) != all.Int(2) || !take(row)) return Damaged(table, name);
  }
}

}  // namespace

class JobStore::Writer {
 public:
  explicit Writer(std::unique_ptr<Database> owned) : database(std::move(owned)) {}

  absl::Status Write(const Transaction& transaction) {
    for (const auto& [name, row] : transaction.jobs) PutRow(&put_job, name, SerializeJobRow(row));
    for (const auto& [name, content] : transaction.contents) PutRow(&put_content, name, SerializeContent(content));
    for (const auto& [id, row] : transaction.workers) PutRow(&put_worker, id, SerializeWorkerRow(row));
    for (const auto& [job, records] : transaction.records) {
      for (const auto& record : records) {
        const std::string row = record->SerializeAsString();
        Note(put_record.Bind(1, job).Bind(2, record->sequence()).Bind(3, row).Bind(4, CrcOf(job, row)).Run());
      }
    }
    for (const SpoolRow& row : transaction.spools) {
      Note(put_spool.Bind(1, row.job)
               .Bind(2, int64_t{row.attempt})
               .Bind(3, int64_t{row.rank})
               .Bind(4, row.sequence)
               .Run());
    }
    for (const RequestRow& row : transaction.requests) {
      const int64_t time = absl::ToUnixSeconds(row.time);
      Note(prune_requests.Bind(1, time - 8 * 24 * 3600).Run());
      Note(put_request.Bind(1, row.principal)
               .Bind(2, row.request_id)
               .Bind(3, row.request_hash)
               .Bind(4, row.job)
               .Bind(5, time)
               .Run());
    }
    return std::exchange(status_, absl::OkStatus());
  }

  const std::unique_ptr<Database> database;

 private:
  void Note(const absl::Status& status) { status_.Update(status); }
  void PutRow(Statement* put, const std::string& key, const std::string& row) {
    Note(put->Bind(1, key).Bind(2, row).Bind(3, CrcOf(key, row)).Run());
  }

  absl::Status status_;
  Statement put_job{database.get(), "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?)"};
  Statement put_content{database.get(), "INSERT INTO contents VALUES (?, ?, ?)"};
  Statement put_worker{database.get(), "INSERT OR REPLACE INTO workers VALUES (?, ?, ?)"};
  Statement put_record{database.get(), "INSERT INTO records VALUES (?, ?, ?, ?)"};
  Statement put_spool{database.get(), "INSERT OR REPLACE INTO spools VALUES (?, ?, ?, ?)"};
  Statement prune_requests{database.get(), "DELETE FROM requests WHERE time < ?"};
  Statement put_request{database.get(), "INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?, ?)"};
};

class JobStore::Reader {
 public:
  explicit Reader(std::unique_ptr<Database> owned) : database(std::move(owned)) {}

  const std::unique_ptr<Database> database;
  Statement content{database.get(), "SELECT row, crc FROM contents WHERE name = ?"};
  Statement log{database.get(),
                "SELECT sequence, row, crc FROM records WHERE job = ? AND sequence > ? "
                "ORDER BY sequence LIMIT ?"};
  Statement spool{database.get(), "SELECT sequence FROM spools WHERE job = ? AND attempt = ? AND rank = ?"};
  Statement request{database.get(),
                    "SELECT hash, job, time FROM requests WHERE principal = ? AND request_id = ? AND "
                    "time >= ?"};
};

absl::StatusOr<std::unique_ptr<JobStore>> JobStore::Open(const std::string& path) {
  if (const absl::Status status = RefuseNetworkFileSystem(path); !status.ok()) return status;
  std::unique_ptr<JobStore> store(new JobStore(path));
  absl::Status status = store->OpenWriter();
  if (status.ok()) status = store->BeginTerm();
  if (status.ok()) status = store->OpenReader();
  if (!status.ok()) return status;
  return store;
}

JobStore::JobStore(std::string path) : path_(std::move(path)) {}
JobStore::~JobStore() = default;

absl::Status JobStore::OpenWriter() {
  absl::StatusOr<std::unique_ptr<Database>> database = Database::Open(path_, Database::Mode::kReadWriteCreate);
  if (!database.ok()) return database.status();
  if (const absl::Status status = (*database)->Execute(kPragmas); !status.ok()) return status;
  int64_t version = 0;
  {
    Statement get(database->get(), "PRAGMA user_version");
    if (const absl::StatusOr<bool> row = get.Step(); !row.ok()) return row.status();
    version = get.Int(0);
  }
  if (version > kSchemaVersion) {
    return absl::FailedPreconditionError(absl::StrCat(path_, " was written by a newer release (schema ", version,
                                                      ", this one reads up to ", kSchemaVersion,
                                                      "): run that release"));
  }
  if (version == 0) {
    const std::string make =
        absl::StrCat("BEGIN IMMEDIATE;", kSchema, "PRAGMA user_version=", kSchemaVersion, "; COMMIT;");
    if (const absl::Status status = (*database)->Execute(make.c_str()); !status.ok()) return status;
  }
  writer_ = std::make_unique<Writer>(*std::move(database));
  return absl::OkStatus();
}

absl::Status JobStore::OpenReader() {
  absl::StatusOr<std::unique_ptr<Database>> database = Database::Open(path_, Database::Mode::kReadOnly);
  if (!database.ok()) return database.status();
  absl::MutexLock lock(&read_mutex_);
  reader_ = std::make_unique<Reader>(*std::move(database));
  return absl::OkStatus();
}

absl::Status JobStore::BeginTerm() {
  Database* database = writer_->database.get();
  absl::Status status = database->Execute("BEGIN IMMEDIATE");
  for (const auto& [name, value] : {std::pair("cluster_id", &cluster_id_), std::pair("log_epoch", &log_epoch_)}) {
    if (!status.ok()) return status;
    const absl::StatusOr<std::string> held = GetMeta(database, name);
    if (!held.ok()) return held.status();
    const absl::StatusOr<std::string> id = held->empty() ? NewId(8) : held;
    if (!id.ok()) return id.status();
    *value = *id;
    status = SetMeta(database, name, *id);
  }
  const absl::StatusOr<std::string> term = GetMeta(database, "term");
  if (!term.ok()) return term.status();
  if (!term->empty() && !absl::SimpleAtoi(*term, &term_)) return Damaged("meta", "term");
  ++term_;
  status.Update(SetMeta(database, "term", absl::StrCat(term_)));
  if (status.ok()) status = database->Execute("COMMIT");
  return status;
}

absl::Status JobStore::Reopen() {
  writer_ = nullptr;
  if (const absl::Status status = OpenWriter(); !status.ok()) return status;
  std::unique_ptr<Writer> writer = std::move(writer_);
  Statement check(writer->database.get(), "PRAGMA quick_check(1)");
  const absl::StatusOr<bool> row = check.Step();
  if (!row.ok()) return row.status();
  if (check.Bytes(0) != "ok") {
    return absl::DataLossError(absl::StrCat(path_, " is damaged (", check.Bytes(0), "): restore it from a backup"));
  }
  check.Reset();
  const absl::StatusOr<std::string> term = GetMeta(writer->database.get(), "term");
  if (!term.ok()) return term.status();
  if (*term != absl::StrCat(term_)) {
    return absl::FailedPreconditionError(absl::StrCat(path_, " has been taken over by another coordinator (term ",
                                                      *term, ", ours is ", term_, "): stop one of them"));
  }
  // Proves that it can be written again before any caller relies on it.
  if (const absl::Status status = SetMeta(writer->database.get(), "term", *term); !status.ok()) return status;
  writer_ = std::move(writer);
  return absl::OkStatus();
}

absl::StatusOr<Store::Contents> JobStore::Load() {
  if (writer_ == nullptr) return absl::UnavailableError("the store has failed and is not open again");
  Database* database = writer_->database.get();
  Contents contents;
  absl::Status status = ReadAll(database, "jobs", "name", [&](const std::string& row) {
    return ParseJobRow(row, &contents.jobs.emplace_back());
  });
  if (!status.ok()) return status;
  status = ReadAll(database, "workers", "worker_id",
                   [&](const std::string& row) { return ParseWorkerRow(row, &contents.workers.emplace_back()); });
  if (!status.ok()) return status;
  // One seek a job.
  Statement last(database, "SELECT max(sequence) FROM records WHERE job = ?");
  for (const JobRow& job : contents.jobs) {
    const absl::StatusOr<bool> row = last.Bind(1, job.name).Step();
    if (!row.ok()) return row.status();
    contents.last_sequence[job.name] = last.Int(0);
    last.Reset();
  }
  return contents;
}

absl::Status JobStore::Commit(const Transaction& transaction) {
  if (writer_ == nullptr) return absl::UnavailableError("the store has failed and is not open again");
  Database* database = writer_->database.get();
  absl::Status status = database->Execute("BEGIN IMMEDIATE");
  if (status.ok()) status = writer_->Write(transaction);
  if (status.ok()) status = database->Execute("COMMIT");
  // A sync that failed once may have lost the page: the handle is of no more use, and neither is another try.
  if (!status.ok()) writer_ = nullptr;
  return status;
}

absl::StatusOr<JobContent> JobStore::GetContent(const std::string& job) {
  absl::MutexLock lock(&read_mutex_);
  Statement& get = reader_->content;
  const absl::StatusOr<bool> found = get.Bind(1, job).Step();
  const std::string row = found.ok() && *found ? get.Bytes(0) : "";
  const int64_t crc = found.ok() && *found ? get.Int(1) : 0;
  get.Reset();
  if (!found.ok()) return found.status();
  if (!*found) return absl::NotFoundError(absl::StrCat("job ", job, " does not exist"));
  JobContent content;
  if (CrcOf(job, row) != crc || !ParseContent(row, &content)) return Damaged("contents", job);
  return content;
}

absl::StatusOr<std::vector<std::shared_ptr<const ham::v1::JobRecord>>> JobStore::ReadLog(const std::string& job,
                                                                                         int64_t after, int limit) {
  std::vector<std::shared_ptr<const ham::v1::JobRecord>> records;
  absl::MutexLock lock(&read_mutex_);
  Statement& get = reader_->log;
  get.Bind(1, job).Bind(2, after).Bind(3, int64_t{limit});
  absl::Status status;
  while (true) {
    const absl::StatusOr<bool> more = get.Step();
    status = more.status();
    if (!status.ok() || !*more) break;
    auto record = std::make_shared<ham::v1::JobRecord>();
    const std::string row = get.Bytes(1);
    if (CrcOf(job, row) != get.Int(2) || !record->ParseFromString(row) || record->sequence() != get.Int(0)) {
      status = Damaged("records", absl::StrCat(job, " record ", get.Int(0)));
      break;
    }
    records.push_back(std::move(record));
  }
  get.Reset();
  if (!status.ok()) return status;
  return records;
}

absl::StatusOr<int64_t> JobStore::GetSpool(const std::string& job, int attempt, int rank) {
  absl::MutexLock lock(&read_mutex_);
  Statement& get = reader_->spool;
  const absl::StatusOr<bool> found = get.Bind(1, job).Bind(2, int64_t{attempt}).Bind(3, int64_t{rank}).Step();
  const int64_t sequence = found.ok() && *found ? get.Int(0) : 0;
  get.Reset();
  if (!found.ok()) return found.status();
  return sequence;
}

absl::StatusOr<std::optional<RequestRow>> JobStore::GetRequest(const std::string& principal,
                                                               const std::string& request_id, absl::Time since) {
  absl::MutexLock lock(&read_mutex_);
  Statement& get = reader_->request;
  const absl::StatusOr<bool> found =
      get.Bind(1, principal).Bind(2, request_id).Bind(3, absl::ToUnixSeconds(since)).Step();
  std::optional<RequestRow> row;
  if (found.ok() && *found) {
    row = RequestRow{principal, request_id, get.Bytes(0), get.Bytes(1), absl::FromUnixSeconds(get.Int(2))};
  }
  get.Reset();
  if (!found.ok()) return found.status();
  return row;
}

}  // namespace ham::server
