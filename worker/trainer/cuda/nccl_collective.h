// Collective between GPUs by NCCL. Traffic between hosts is not encrypted.
//
// A call returns when the device has done what it asks for. It fails when NCCL says so or its time is over; NCCL is
// then told to abort, on a thread of its own, because that may hang: then the thread and the communicator are left
// behind, and the process can only end.
#pragma once

#include <functional>
#include <memory>

#include <c10/core/Device.h>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "worker/trainer/collective.h"
#include "worker/trainer/cuda/nccl_calls.h"
#include "worker/trainer/key_value_store.h"

namespace ham::trainer {

struct NcclTimes {
  std::function<absl::Time()> now = absl::Now;
  std::function<void(absl::Duration)> sleep = absl::SleepFor;
  absl::Duration end_limit = absl::Seconds(5);  // of an abort, and of each of the two steps of an orderly end
};

// Connects this rank with all others. `store` is used during this call only and must be shared by the ranks of this
// group and no other. FailedPrecondition when a rank has another version of NCCL; AlreadyExists, on all ranks, when two
// of them are on one GPU, which NCCL does not do; DeadlineExceeded when ranks do not come up in time; Unavailable when
// connecting failed; the store's errors.
absl::StatusOr<std::unique_ptr<Collective>> ConnectNccl(const RankGroup& group, c10::Device device,
                                                        std::shared_ptr<NcclCalls> calls, KeyValueStore& store,
                                                        const NcclTimes& times = {});

}  // namespace ham::trainer
