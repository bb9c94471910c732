// A GPU, and what only a program that is linked with CUDA can do with it: ham-trainer-cuda has one, ham-trainer none.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include <c10/core/Device.h>

#include "absl/status/statusor.h"
#include "worker/trainer/collective.h"
#include "worker/trainer/key_value_store.h"
#include "worker/trainer/step_profile.h"

namespace ham::trainer {

// Work that is recorded once and then launched whole: same kernels, same memory, other numbers in it.
class RecordedWork {
 public:
  virtual ~RecordedWork() = default;
  virtual void Replay() = 0;
};

// Used by the training thread only. LibTorch's exceptions pass through.
class Accelerator {
 public:
  virtual ~Accelerator() = default;

  // The first GPU that CUDA_VISIBLE_DEVICES leaves visible.
  virtual c10::Device device() const = 0;
  // "NVIDIA H200"
  virtual const std::string& name() const = 0;
  // 90 for "9.0".
  virtual int compute_capability() const = 0;

  // Connects this rank with all others by NCCL; see ConnectNccl. AlreadyExists, on all ranks, when two of them are on
  // one GPU.
  virtual absl::StatusOr<std::unique_ptr<Collective>> Connect(const RankGroup& group, KeyValueStore& store) = 0;

  // Runs `work` once or more, so that all it needs is there, and records it. `work` does the same each time that it
  // runs, does not wait for the device and copies nothing from the host; what it reads and writes outside itself stays
  // where it is for as long as the recording lives.
  virtual std::unique_ptr<RecordedWork> Record(const std::function<void()>& work) = 0;

  // Of the work that this thread asks of the device.
  virtual std::unique_ptr<PhaseClock> NewClock() = 0;
};

// That of this program; null in ham-trainer. FailedPrecondition, in one sentence, where there is no driver, one that is
// too old, no GPU, or one of an architecture that LibTorch has no code for.
absl::StatusOr<std::unique_ptr<Accelerator>> MakeAccelerator();

// Of this accelerator, or where it is null of the host.
inline c10::Device DeviceOf(const Accelerator* accelerator) {
  return accelerator == nullptr ? c10::Device(c10::kCPU) : accelerator->device();
}
inline std::unique_ptr<PhaseClock> NewClockOf(Accelerator* accelerator) {
  return accelerator == nullptr ? std::make_unique<HostClock>() : accelerator->NewClock();
}

}  // namespace ham::trainer
