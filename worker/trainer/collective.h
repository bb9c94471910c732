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

// The ranks of one attempt, seen by one of them.
struct RankGroup {
  int rank = 0;                                 // [0, world_size)
  int world_size = 1;                           // >= 1
  absl::Duration timeout = absl::Minutes(1);    // silence of a peer; [1 ms, 1 day]
  absl::Duration patience = absl::Minutes(10);  // of a barrier, and connecting in all; [1 ms, 1 day]
};
// FailedPrecondition names what is out of range.
absl::Status CheckGroup(const RankGroup& group);

class Collective {
 public:
  explicit Collective(const RankGroup& group) : group_(group) {}
  virtual ~Collective() = default;
  Collective(const Collective&) = delete;
  Collective& operator=(const Collective&) = delete;

  int rank() const { return group_.rank; }
  int world_size() const { return group_.world_size; }
  absl::Duration timeout() const { return group_.timeout; }
  absl::Duration patience() const { return group_.patience; }

  // Replaces `data` by the sum over ranks. The result is equal bit for bit on all ranks, and the same in every run with
  // this world size; by NCCL, which adds in an order that suits the links it finds, on the same machines only.
  absl::Status AllReduceSum(double* data, int64_t count);
  // `flat`: contiguous tensor, float32 or float64, on the CPU or a GPU; summed in place. On a GPU it is as of the
  // current stream, which is waited for.
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
  // Of a tensor on a GPU: by way of host memory, unless overridden.
  virtual absl::Status DoAllReduceSumOnDevice(at::Tensor& flat);
  virtual absl::Status DoAllGather(const void* in, size_t bytes, void* out) = 0;
  virtual absl::Status DoBarrier() = 0;

 private:
  absl::Status Run(const std::function<absl::Status()>& operation);

  absl::Status SumOnHost(at::Tensor& flat);

  const RankGroup group_;
  std::atomic<int64_t> sequence_{0};
  absl::Status first_error_;  // touched by the calling thread only
};

// World size 1: every call succeeds at once.
std::unique_ptr<Collective> MakeLocalCollective();

}  // namespace ham::trainer
