#include "server/sqlite.h"

#include <sqlite3.h>

#include "absl/strings/str_cat.h"

namespace ham::server {

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path, Mode mode) {
  sqlite3* handle = nullptr;
  const int access = mode == Mode::kReadOnly ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
  const int code = sqlite3_open_v2(path.c_str(), &handle, access | SQLITE_OPEN_NOMUTEX, nullptr);
  std::unique_ptr<Database> database(new Database(path, handle));
  if (code != SQLITE_OK) return database->Error("open");
  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_timeout(handle, 5000);  // ms; readers and the one writer wait for each other only at checkpoints
  return database;
}

Database::~Database() { sqlite3_close_v2(handle_); }

absl::Status Database::Execute(const char* sql) {
  return sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr) == SQLITE_OK ? absl::OkStatus() : Error("change");
}

absl::Status Database::Error(const char* what) const {
  const std::string text = absl::StrCat("cannot ", what, " ", path_, ": ", sqlite3_errmsg(handle_));
  switch (sqlite3_errcode(handle_) & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(absl::StrCat(text, "; restore the state directory from a backup"));
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(absl::StrCat(text, "; make room on its disk"));
    default:
      return absl::UnavailableError(text);
  }
}

Statement::Statement(Database* database, const char* sql) : database_(database) {
  good_ = sqlite3_prepare_v3(database->handle(), sql, -1, SQLITE_PREPARE_PERSISTENT, &statement_, nullptr) == SQLITE_OK;
}

Statement::~Statement() { sqlite3_finalize(statement_); }

Statement& Statement::Bind(int index, int64_t value) {
  good_ = good_ && sqlite3_bind_int64(statement_, index, value) == SQLITE_OK;
  return *this;
}

Statement& Statement::Bind(int index, std::string_view value) {
  // A null pointer would bind NULL.
  const char* data = value.empty() ? "" : value.data();
  good_ = good_ && sqlite3_bind_blob64(statement_, index, data, value.size(), SQLITE_TRANSIENT) == SQLITE_OK;
  return *this;
}

absl::StatusOr<bool> Statement::Step() {
  if (!good_) return database_->Error("read");
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return database_->Error("use");
}

absl::Status Statement::Run() {
  const absl::Status status = Step().status();
  Reset();
  return status;
}

void Statement::Reset() {
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
