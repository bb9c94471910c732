// The calls of NCCL and CUDA that a communicator of one rank needs, apart from their headers: ham-trainer-cuda makes
// them, a test may play them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <c10/core/Device.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ham::trainer {

// One communicator of NCCL with blocking=0: what is asked of it may still be under way when a call returns OK. Errors
// carry NCCL's or CUDA's text: Unavailable, Internal for a misuse. One thread at a time.
class NcclCalls {
 public:
  virtual ~NcclCalls() = default;

  // "2.28.9"
  virtual std::string Version() = 0;
  // Of the device: "GPU-..."
  virtual std::string DeviceUuid() = 0;
  // By which the ranks of one communicator find each other; made by one of them.
  virtual absl::StatusOr<std::string> MakeUniqueId() = 0;

  // The first call on the communicator, once.
  virtual absl::Status Connect(const std::string& unique_id, int rank, int world_size) = 0;
  // Whether all that was asked is under way on the stream; an error once the communicator has failed.
  virtual absl::StatusOr<bool> Idle() = 0;
  // On the device's current stream, in place. `all` holds `bytes` of each rank; this rank's are there.
  virtual absl::Status SumFloats(float* data, int64_t count) = 0;
  virtual absl::Status SumDoubles(double* data, int64_t count) = 0;
  virtual absl::Status Gather(void* all, size_t bytes) = 0;
  // Marks the end of what is on the stream now. Idle() must hold.
  virtual absl::Status Mark() = 0;
  // Whether the device has come to the mark.
  virtual absl::StatusOr<bool> Reached() = 0;

  // Before Destroy(): ends what is under way, together with the other ranks. Idle() tells when it is done.
  virtual absl::Status Finalize() = 0;
  // The last calls; each may hang.
  virtual void Destroy() = 0;
  virtual void Abort() = 0;
};

// Those of the NCCL that this program is linked with.
std::unique_ptr<NcclCalls> MakeNcclCalls(c10::Device device);

}  // namespace ham::trainer
