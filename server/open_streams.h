// How many streams of each kind are open.
#pragma once

#include <atomic>
#include <cstdint>

namespace ham::server {

// Any thread.
struct OpenStreams {
  std::atomic<int64_t> control = 0;  // of workers
  std::atomic<int64_t> report = 0;
  std::atomic<int64_t> watch = 0;  // of clients
};

// Counts as one open stream while it lives.
class OpenStream {
 public:
  explicit OpenStream(std::atomic<int64_t>* count) : count_(count) { count_->fetch_add(1, std::memory_order_relaxed); }
  ~OpenStream() { count_->fetch_sub(1, std::memory_order_relaxed); }
  OpenStream(const OpenStream&) = delete;
  OpenStream& operator=(const OpenStream&) = delete;

 private:
  std::atomic<int64_t>* const count_;
};

}  // namespace ham::server
