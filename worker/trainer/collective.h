// Sums, copies and barriers over the ranks of a gang.
//
// Two rules:
//   1. All ranks make the same calls with the same element counts in the same order.
//   2. A buffer holds the result only after the call returned OK; after an error its content is undefined.
//
// A call fails once nothing arrived from a peer for timeout(); a barrier waits for patience(). After a call failed the
// group is not reused: every later call returns that first error at once, and the ranks must be started anew. Errors:
// Unavailable when a peer is gone (LostRankOf() tells which, where that is known), DeadlineExceeded when a peer did not
// arrive in time, Internal for a misuse found on this rank (which fails the group too). Thread rule: one thread makes
// the calls; counts() may be read from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
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

// An error that tells which rank's connection was lost.
absl::Status WithLostRank(absl::Status status, int rank);
// nullopt if `status` does not tell.
std::optional<int> LostRankOf(const absl::Status& status);

// Calls of one rank. All ranks number them alike, from 1: a rank that has begun fewer than another keeps it waiting.
struct CollectiveCounts {
  int64_t begun = 0;
  int64_t completed = 0;  // evidence that all ranks live
  double seconds = 0;     // in calls that have ended
  bool operator==(const CollectiveCounts&) const = default;
};

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

  CollectiveCounts counts() const;
  int64_t sequence() const { return counts().completed; }

 protected:
  virtual absl::Status DoAllReduceSum(float* data, int64_t count) = 0;
  virtual absl::Status DoAllReduceSum(double* data, int64_t count) = 0;
  // Of a tensor on a GPU: by way of host memory, unless overridden.
  virtual absl::Status DoAllReduceSumOnDevice(at::Tensor& flat);
  virtual absl::Status DoAllGather(const void* in, size_t bytes, void* out) = 0;
  virtual absl::Status DoBarrier() = 0;

  // "sum 4711 over 3 ranks": the call under way; without a number before the first.
  std::string Describe(const char* what) const;
  // The one rank beside this one, if there is just one.
  std::optional<int> OnlyPeer() const;

 private:
  absl::Status Run(const std::function<absl::Status()>& operation);

  absl::Status SumOnHost(at::Tensor& flat);

  const RankGroup group_;
  mutable absl::Mutex mutex_;
  CollectiveCounts counts_ ABSL_GUARDED_BY(mutex_);
  absl::Status first_error_;  // touched by the calling thread only
};

// World size 1: every call succeeds at once.
std::unique_ptr<Collective> MakeLocalCollective();

}  // namespace ham::trainer
