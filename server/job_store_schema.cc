#include "server/job_store_schema.h"

#include <openssl/rand.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "server/crc32c.h"

namespace ham::server {
namespace {

constexpr int kSchemaVersion = 1;
constexpr int kApplicationId = 0x48414d31;  // "HAM1"
constexpr char kSchema[] = R"(
  CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), cluster_id BLOB NOT NULL, log_epoch BLOB NOT NULL,
                     term INTEGER NOT NULL, commits INTEGER NOT NULL, crc INTEGER NOT NULL);
  CREATE TABLE jobs (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, row BLOB NOT NULL, crc INTEGER NOT NULL);
  CREATE TABLE contents (job BLOB NOT NULL UNIQUE, row BLOB NOT NULL, crc INTEGER NOT NULL);
  CREATE TABLE workers (worker_id BLOB NOT NULL UNIQUE, row BLOB NOT NULL, crc INTEGER NOT NULL);
  CREATE TABLE records (key INTEGER PRIMARY KEY, row BLOB NOT NULL, crc INTEGER NOT NULL);
  CREATE TABLE spools (job BLOB NOT NULL, attempt INTEGER NOT NULL, rank INTEGER NOT NULL, sequence INTEGER NOT NULL,
                       crc INTEGER NOT NULL, PRIMARY KEY (job, attempt, rank)) WITHOUT ROWID;
  CREATE TABLE requests (principal BLOB NOT NULL, request_id BLOB NOT NULL, time INTEGER NOT NULL, row BLOB NOT NULL,
                         crc INTEGER NOT NULL, PRIMARY KEY (principal, request_id)) WITHOUT ROWID;
  CREATE INDEX requests_by_time ON requests (time);
)";
// The log is moved by Database::Checkpoint; once moved it may keep 64 MiB of disk.
constexpr char kPragmas[] = "PRAGMA synchronous=FULL; PRAGMA journal_size_limit=67108864; PRAGMA cache_size=-16384;";

absl::StatusOr<int64_t> QueryInt(Database* database, const char* sql) {
  Statement query(database, sql);
  const absl::StatusOr<bool> row = query.Step();
  if (!row.ok()) return row.status();
  return *row ? query.Int(0) : 0;
}

absl::StatusOr<std::string> NewId() {
  std::string bytes(8, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(bytes.size())) != 1) {
    return absl::InternalError("OpenSSL gave no random numbers");
  }
  return absl::BytesToHexString(bytes);
}

// True for a file that nobody has written to.
absl::StatusOr<bool> IsEmpty(Database* database) {
  const absl::StatusOr<int64_t> tables = QueryInt(database, "SELECT count(*) FROM sqlite_master");
  if (!tables.ok()) return tables.status();
  return *tables == 0;
}

absl::Status CheckVersion(Database* database) {
  const absl::StatusOr<int64_t> application = QueryInt(database, "PRAGMA application_id");
  if (!application.ok()) return application.status();
  const absl::StatusOr<int64_t> version = QueryInt(database, "PRAGMA user_version");
  if (!version.ok()) return version.status();
  const absl::StatusOr<bool> empty = IsEmpty(database);
  if (!empty.ok()) return empty.status();
  if (*empty) return absl::OkStatus();
  if (*application != kApplicationId) {
    return absl::FailedPreconditionError(
        absl::StrCat(database->path(), " is a database of another program: use another --state-dir"));
  }
  if (*version > kSchemaVersion) {
    return absl::FailedPreconditionError(absl::StrCat(database->path(), " has schema version ", *version,
                                                      " of a newer release, this one reads up to ", kSchemaVersion,
                                                      ": run the newer release"));
  }
  return absl::OkStatus();
}

absl::StatusOr<StoreHead> MakeTables(Database* database) {
  const std::string sql =
      absl::StrCat(kSchema, "PRAGMA application_id=", kApplicationId, "; PRAGMA user_version=", kSchemaVersion, ";");
  if (const absl::Status status = database->Execute(sql.c_str()); !status.ok()) return status;
  StoreHead head;
  for (std::string* id : {&head.cluster_id, &head.log_epoch}) {
    absl::StatusOr<std::string> made = NewId();
    if (!made.ok()) return made.status();
    *id = *std::move(made);
  }
  return head;
}

absl::Status WriteHead(Database* database, const StoreHead& head) {
  return Statement(database, "INSERT OR REPLACE INTO meta VALUES (1, ?, ?, ?, ?, ?)")
      .Bind(1, head.cluster_id)
      .Bind(2, head.log_epoch)
      .Bind(3, head.term)
      .Bind(4, head.commits)
      .Bind(5, HeadCrc(head))
      .Run();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Database>> OpenForWriting(const std::string& path) {
  absl::StatusOr<std::unique_ptr<Database>> database = Database::Open(path, Database::Mode::kReadWriteCreate);
  if (!database.ok()) return database;
  if (const absl::Status status = CheckVersion(database->get()); !status.ok()) return status;
  const absl::StatusOr<std::string> mode = (*database)->QueryText("PRAGMA journal_mode=WAL");
  if (!mode.ok()) return mode.status();
  if (*mode != "wal") {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " cannot have a write-ahead log there: use a --state-dir on a local disk"));
  }
  if (const absl::Status status = (*database)->Execute(kPragmas); !status.ok()) return status;
  return database;
}

absl::StatusOr<StoreHead> BeginTerm(Database* database) {
  if (const absl::Status status = database->Execute("BEGIN IMMEDIATE"); !status.ok()) return status;
  const absl::StatusOr<bool> empty = IsEmpty(database);
  if (!empty.ok()) return empty.status();
  absl::StatusOr<StoreHead> head = *empty ? MakeTables(database) : ReadHead(database);
  if (!head.ok()) return head;
  ++head->term;
  if (const absl::Status status = WriteHead(database, *head); !status.ok()) return status;
  if (const absl::Status status = database->Execute("COMMIT"); !status.ok()) return status;
  return head;
}

absl::StatusOr<StoreHead> BeginEpoch(Database* database) {
  absl::StatusOr<StoreHead> head = ReadHead(database);
  if (!head.ok()) return head;
  absl::StatusOr<std::string> epoch = NewId();
  if (!epoch.ok()) return epoch.status();
  head->log_epoch = *std::move(epoch);
  head->term += kRestoreStep;
  if (const absl::Status status = WriteHead(database, *head); !status.ok()) return status;
  return head;
}

absl::StatusOr<StoreHead> ReadHead(Database* database) {
  Statement get(database, "SELECT cluster_id, log_epoch, term, commits, crc FROM meta");
  const absl::StatusOr<bool> row = get.Step();
  if (!row.ok()) return row.status();
  if (!*row) return DamagedRow(*database, "meta", "1");
  StoreHead head{get.Bytes(0), get.Bytes(1), get.Int(2), get.Int(3)};
  if (get.Int(4) != HeadCrc(head)) return DamagedRow(*database, "meta", "1");
  return head;
}

int64_t HeadCrc(const StoreHead& head) {
  return RowCrc("meta", "1", absl::StrCat(head.cluster_id, " ", head.log_epoch, " ", head.term, " ", head.commits));
}

int64_t RowCrc(std::string_view table, std::string_view key, std::string_view row) {
  const std::string_view end("\0", 1);
  uint32_t crc = 0;
  for (const std::string_view part : {table, end, key, end, row}) crc = Crc32c(part, crc);
  return crc;
}

absl::Status DamagedRow(const Database& database, std::string_view table, std::string_view key) {
  return absl::DataLossError(absl::StrCat(database.path(), ": row ", std::string(key), " of table ", std::string(table),
                                          " is damaged; restore the state directory from a backup"));
}

std::string RecordKey(std::string_view job, int64_t sequence) {
  return absl::StrCat(std::string(job), " record ", sequence);
}

std::string SpoolKey(std::string_view job, int attempt, int rank) {
  return absl::StrCat(std::string(job), " attempt ", attempt, " rank ", rank);
}

std::string RequestKey(std::string_view principal, std::string_view request_id) {
  return absl::StrCat(std::string(principal), " request ", std::string(request_id));
}

}  // namespace ham::server
