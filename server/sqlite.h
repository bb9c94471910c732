// The little of SQLite that the store uses; each error is a Status that names the file.
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

// A connection. One thread at a time.
class Database {
 public:
  enum class Mode { kReadWriteCreate, kReadOnly };
  // UNAVAILABLE when it cannot be opened.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path, Mode mode);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // Statements without parameters and results.
  absl::Status Execute(const char* sql);
  // The newest error as a Status: DATA_LOSS for a damaged file, RESOURCE_EXHAUSTED for a full disk, else UNAVAILABLE.
  absl::Status Error(const char* what) const;
  sqlite3* handle() const { return handle_; }

 private:
  Database(std::string path, sqlite3* handle) : path_(std::move(path)), handle_(handle) {}
  const std::string path_;
  sqlite3* const handle_;
};

// A prepared statement. Use: Bind..., then Step until it gives false, then Reset. Errors of Bind come out of Step.
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
  int64_t Int(int column) const;
  std::string Bytes(int column) const;

 private:
  Database* const database_;
  sqlite3_stmt* statement_ = nullptr;
  bool good_ = true;
};

}  // namespace ham::server
