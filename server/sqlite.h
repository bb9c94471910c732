// The little of SQLite that the store uses. Each error is a Status of one sentence that names the file and the cause:
// DATA_LOSS for a damaged file, else UNAVAILABLE (full or failed disk, locked by another process).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct sqlite3;
struct sqlite3_stmt;

namespace ham::server {

// A connection. One thread at a time; must outlive its statements.
class Database {
 public:
  enum class Mode { kReadWriteCreate, kReadOnly };
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path, Mode mode);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // Statements without parameters; results are dropped.
  absl::Status Execute(const char* sql);
  // The first column of the first row; "" when there is none.
  absl::StatusOr<std::string> QueryText(const char* sql);
  // Rows that the newest INSERT, UPDATE or DELETE touched.
  int64_t changes() const;

  // Writes one state of it, the newest committed, to a new file. Writers go on meanwhile.
  absl::Status CopyTo(const std::string& path);
  // Moves what the log holds into the main file as far as no reader needs it, and syncs. OK when a reader was in the
  // way.
  absl::Status Checkpoint();
  // Pages that the log held after the newest commit.
  int log_pages() const { return log_pages_; }

  const std::string& path() const { return path_; }

 private:
  friend class Statement;
  Database(std::string path, sqlite3* handle) : path_(std::move(path)), handle_(handle) {}
  absl::Status Error(const char* what) const;  // the newest

  const std::string path_;
  sqlite3* const handle_;
  int log_pages_ = 0;
};

// A prepared statement. Use: Bind..., Step until it gives false, Reset. Errors of preparing and binding come out of
// Step.
class Statement {
 public:
  Statement(Database* database, const char* sql);
  ~Statement();
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& Bind(int index, int64_t value);
  Statement& Bind(int index, std::string_view value);  // bytes; copied
  // True: a row is there. False: done.
  absl::StatusOr<bool> Step();
  // Step for statements without rows, then Reset.
  absl::Status Run();
  void Reset();
  // Of the current row; column 0 is the first.
  int64_t Int(int column) const;
  std::string Bytes(int column) const;

 private:
  Database* const database_;
  sqlite3_stmt* statement_ = nullptr;  // null if it could not be prepared
  absl::Status prepared_;
  absl::Status bound_;
};

}  // namespace ham::server
