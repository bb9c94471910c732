// Keys by which the ranks of an attempt find each other. In memory only: a coordinator restart during STARTING
// starts a new attempt.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace ham::server {

// Any thread. Callbacks run without the lock, on the thread that caused them; they must not block.
class RendezvousTable {
 public:
  struct Bounds {
    size_t keys = 65536;             // of an attempt
    size_t bytes = 64 << 20;         // of an attempt, names and values
    size_t total_bytes = 512 << 20;  // of all attempts
    size_t value_bytes = 64 << 10;   // of a value
    size_t key_bytes = 512;          // of a name
    size_t waiters = 65536;          // of all attempts
  };
  using Done = std::function<void(absl::StatusOr<std::string>)>;

  explicit RendezvousTable(const Bounds& bounds) : bounds_(bounds) {}

  // Setting a key again replaces its value. INVALID_ARGUMENT for a name or value over its size; RESOURCE_EXHAUSTED
  // when the table is full.
  absl::Status Set(const std::string& job, int attempt, const std::string& key, const std::string& value);

  // Calls `done` once: with the value, now or as soon as it is set; ABORTED when the attempt ends; UNAVAILABLE at
  // shutdown; CANCELLED after Cancel. Returns the number of the waiter, 0 if `done` was called already.
  uint64_t Get(const std::string& job, int attempt, const std::string& key, Done done);
  void Cancel(uint64_t waiter);

  // Drops its keys; its waiters get ABORTED.
  void EndAttempt(const std::string& job, int attempt);
  // All waiters get UNAVAILABLE, later calls too.
  void Shutdown();

  size_t attempts() const;  // with keys or waiters

 private:
  struct Attempt {
    std::map<std::string, std::string> values;
    std::multimap<std::string, uint64_t> waiters;  // by key
    size_t bytes = 0;
  };
  struct Waiter {
    std::pair<std::string, int> attempt;
    std::string key;
    Done done;
  };

  Done TakeWaiter(uint64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Bounds bounds_;
  mutable absl::Mutex mutex_;
  std::map<std::pair<std::string, int>, Attempt> attempts_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Waiter> waiters_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_waiter_ ABSL_GUARDED_BY(mutex_) = 1;
  size_t total_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace ham::server
