// Sums, copies and barriers over the ranks of a gang.
//
// Two rules:
//   1. All ranks make the same calls with the same element counts in the same order.
//   2. A buffer holds the result only after the call returned OK; after an error its content is undefined.
//
// A call fails once nothing arrived from a peer for timeout(); a barrier waits for patience(). After a call failed the
// group is not reused: every later call returns that first error at once, and the ranks must be started anew. Errors:
// Unavailable when a peer is gone (its rank is named where it is known), DeadlineExceeded when a peer did not arrive in
// time, Internal for a misuse found on this rank (which fails the group too). Thread rule: one thread makes the calls;
// sequence() may be read from any thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace at {
class Tensor;
}

namespace ham::trainer {

class Collective {
 public:
  Collective(int rank, int world_size, absl::Duration timeout, absl::Duration patience)
      : rank_(rank), world_size_(world_size), timeout_(timeout), patience_(patience) {}
  virtual ~Collective() = default;
  Collective(const Collective&) = delete;
  Collective& operator=(const Collective&) = delete;

  int rank() const { return rank_; }
  int world_size() const { return world_size_; }
  absl::Duration timeout() const { return timeout_; }
  absl::Duration patience() const { return patience_; }

  // Replaces `data` by the sum over ranks. The result is equal bit for bit on all ranks, and the same in
  // every run with this world size.
  absl::Status AllReduceSum(double* data, int64_t count);
  // `flat`: contiguous CPU tensor, float32 or float64; summed in place.
  absl::Status AllReduceSum(at::Tensor& flat);
  // `out` receives world_size * bytes bytes, rank by rank. `in` and `out` do not overlap.
  absl::Status AllGather(const void* in, size_t bytes, void* out);
  // Returns OK once every rank has called it. For where ranks do not come together, after a save or a block of an
  // evaluation: they may be up to patience() apart.
  absl::Status Barrier();

  // Number of calls that completed: evidence that all ranks live.
  int64_t sequence() const { return sequence_.load(std::memory_order_relaxed); }

 protected:
  virtual absl::Status DoAllReduceSum(float* data, int64_t count) = 0;
  virtual absl::Status DoAllReduceSum(double* data, int64_t count) = 0;
  virtual absl::Status DoAllGather(const void* in, size_t bytes, void* out) = 0;
  virtual absl::Status DoBarrier() = 0;

 private:
  absl::Status Run(const std::function<absl::Status()>& operation);

  const int rank_;
  const int world_size_;
  const absl::Duration timeout_;
  const absl::Duration patience_;
  std::atomic<int64_t> sequence_{0};
  absl::Status first_error_;  // touched by the calling thread only
};

// World size 1: every call succeeds at once.
std::unique_ptr<Collective> MakeLocalCollective();

}  // namespace ham::trainer
