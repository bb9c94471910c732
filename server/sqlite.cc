#include "server/sqlite.h"

#include <sqlite3.h>

#include <cstring>

#include "absl/strings/str_cat.h"

namespace ham::server {
namespace {

constexpr int kBusyTimeoutMs = 5000;  // only another program could hold a lock for long

int NoteLogPages(void* pages, sqlite3*, const char*, int count) {
  *static_cast<int*>(pages) = count;
  return SQLITE_OK;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path, Mode mode) {
  sqlite3* handle = nullptr;
  const int access = mode == Mode::kReadOnly ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
  const int code = sqlite3_open_v2(path.c_str(), &handle, access | SQLITE_OPEN_NOMUTEX, nullptr);
  std::unique_ptr<Database> database(new Database(path, handle));
  if (code != SQLITE_OK) return database->Error("open");
  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_timeout(handle, kBusyTimeoutMs);
  // Takes the place of the automatic checkpoint, whose errors nobody would see.
  sqlite3_wal_hook(handle, NoteLogPages, &database->log_pages_);
  return database;
}

Database::~Database() { sqlite3_close_v2(handle_); }

absl::Status Database::Execute(const char* sql) {
  return sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr) == SQLITE_OK ? absl::OkStatus() : Error("write");
}

absl::StatusOr<std::string> Database::QueryText(const char* sql) {
  Statement query(this, sql);
  const absl::StatusOr<bool> row = query.Step();
  if (!row.ok()) return row.status();
  return *row ? query.Bytes(0) : "";
}

int64_t Database::changes() const { return sqlite3_changes64(handle_); }

absl::Status Database::CopyTo(const std::string& path) {
  const std::unique_ptr<char, decltype(&sqlite3_free)> sql(sqlite3_mprintf("VACUUM INTO %Q", path.c_str()),
                                                           sqlite3_free);
  if (sql != nullptr && sqlite3_exec(handle_, sql.get(), nullptr, nullptr, nullptr) == SQLITE_OK) {
    return absl::OkStatus();
  }
  const absl::Status status = Error("copy");
  return absl::Status(status.code(), absl::StrCat(std::string(status.message()), " (to ", path, ")"));
}

absl::Status Database::Checkpoint() {
  const int code = sqlite3_wal_checkpoint_v2(handle_, nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
  if (code == SQLITE_OK || (code & 0xff) == SQLITE_BUSY) return absl::OkStatus();
  return Error("write");
}

absl::Status Database::Error(const char* what) const {
  std::string text = absl::StrCat("cannot ", what, " ", path_, ": ", sqlite3_errmsg(handle_));
  switch (sqlite3_errcode(handle_) & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(absl::StrCat(text, "; restore the state directory from a backup"));
    case SQLITE_FULL:
      return absl::UnavailableError(absl::StrCat(text, "; make room on its disk"));
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
      if (const int error = sqlite3_system_errno(handle_); error != 0)
        absl::StrAppend(&text, " (", strerror(error), ")");
      return absl::UnavailableError(text);
    default:
      return absl::UnavailableError(text);
  }
}

Statement::Statement(Database* database, const char* sql) : database_(database) {
  if (sqlite3_prepare_v3(database->handle_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement_, nullptr) != SQLITE_OK) {
    prepared_ = database->Error("read");
  }
}

Statement::~Statement() { sqlite3_finalize(statement_); }

Statement& Statement::Bind(int index, int64_t value) {
  if (sqlite3_bind_int64(statement_, index, value) != SQLITE_OK) bound_.Update(database_->Error("use"));
  return *this;
}

Statement& Statement::Bind(int index, std::string_view value) {
  const char* data = value.empty() ? "" : value.data();  // a null pointer would bind NULL
  if (sqlite3_bind_blob64(statement_, index, data, value.size(), SQLITE_TRANSIENT) != SQLITE_OK) {
    bound_.Update(database_->Error("use"));
  }
  return *this;
}

absl::StatusOr<bool> Statement::Step() {
  if (!prepared_.ok()) return prepared_;
  if (!bound_.ok()) return bound_;
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return database_->Error(sqlite3_stmt_readonly(statement_) != 0 ? "read" : "write");
}

absl::Status Statement::Run() {
  const absl::Status status = Step().status();
  Reset();
  return status;
}

void Statement::Reset() {
  bound_ = absl::OkStatus();
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

int64_t Statement::Int(int column) const { return sqlite3_column_int64(statement_, column); }

std::string Statement::Bytes(int column) const {
  const void* data = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  return data == nullptr ? "" : std::string(static_cast<const char*>(data), static_cast<size_t>(size));
}

}  // namespace ham::server
