// How much room a directory's file system has, asked about once a second on a thread of its own: one over a network may
// never answer.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/time/time.h"

namespace ham::agent {

// Bytes that this process may still write there; nullopt if that is not known.
std::optional<uint64_t> FreeBytes(const std::string& directory);

class DiskMonitor {
 public:
  DiskMonitor(std::string directory, absl::Duration period);
  // Does not wait for a file system that does not answer.
  ~DiskMonitor();
  DiskMonitor(const DiskMonitor&) = delete;
  DiskMonitor& operator=(const DiskMonitor&) = delete;

  // The newest answer. Any thread; does not block.
  std::optional<uint64_t> free_bytes() const;

 private:
  struct State;

  const std::shared_ptr<State> state_;  // shared with a thread that may outlive this
  std::thread thread_;
};

}  // namespace ham::agent
