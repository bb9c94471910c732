// The agent's directory and the identity in it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace ham::agent {

// Holds STATE_DIR for this process: a lock that ends with it, the durable id in STATE_DIR/worker_id, and in
// STATE_DIR/incarnation how many processes there were.
class StateDirectory {
 public:
  // Makes the directory (0700) when missing. Unavailable, naming the path, when it cannot be made or written;
  // FailedPrecondition when another agent holds it; DataLoss when the id is damaged.
  static absl::StatusOr<std::unique_ptr<StateDirectory>> Open(const std::string& path);
  ~StateDirectory();
  StateDirectory(const StateDirectory&) = delete;
  StateDirectory& operator=(const StateDirectory&) = delete;

  const std::string& path() const { return path_; }
  const std::string& worker_id() const { return worker_id_; }  // 32 hex digits
  // The number of this process among those that had the directory, from 1. Once a process, when there is room for it:
  // what an older one left may have filled the disk. DataLoss when the number is damaged, Unavailable as above.
  absl::StatusOr<int64_t> CountIncarnation();

 private:
  StateDirectory(std::string path, int lock_fd) : path_(std::move(path)), lock_fd_(lock_fd) {}
  absl::Status ReadOrMakeId();

  const std::string path_;
  const int lock_fd_;
  std::string worker_id_;
};

// 128 random bits, as 32 hex digits.
std::string RandomId();

}  // namespace ham::agent
