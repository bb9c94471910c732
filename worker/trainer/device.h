// Numbers between the host and the device that a rank computes on.
//
// On the device lie weights, gradients, images, their targets and logits; labels, ids, masks and counts are the host's.
// One thread.
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

namespace ham::trainer {

// Whether the host's loops can work on it; else LibTorch's operations must (device_ops.h).
bool OnHost(const at::Tensor& tensor);

// While one lives, tensors of the host are worked on as if they lay on a device: so tests compare the two ways.
class HostAsDevice {
 public:
  HostAsDevice();
  ~HostAsDevice();
  HostAsDevice(const HostAsDevice&) = delete;
  HostAsDevice& operator=(const HostAsDevice&) = delete;
};

// A host tensor on `device`, strided as it is; itself where that is the host. Does not wait for the device.
at::Tensor ToDevice(const at::Tensor& host, at::Device device);

// The numbers of a tensor on their way to the host. A tensor of the device "meta", which has shapes only, gives zeros:
// so tests walk through a whole step.
class HostCopy {
 public:
  // Asks for them, behind all that was asked of the device before.
  explicit HostCopy(const at::Tensor& tensor);
  // Waits until they are there. The tensor itself if it lies on the host.
  const at::Tensor& Get();

 private:
  at::Tensor host_;
  std::optional<c10::Event> there_;  // of a GPU
  int64_t number_ = 0;               // of those that a device is asked for, from 1
};

// Those of `tensor` now.
inline at::Tensor ToHost(const at::Tensor& tensor) { return HostCopy(tensor).Get(); }

// Whether GPUs may compute in TF32 where numbers are float32; LibTorch's default is that convolutions do. Of the
// process.
void AllowTf32(bool allow);

// While one lives, GPUs may do so, whatever AllowTf32() said. One at a time in the process.
class Tf32Scope {
 public:
  Tf32Scope();
  ~Tf32Scope();
  Tf32Scope(const Tf32Scope&) = delete;
  Tf32Scope& operator=(const Tf32Scope&) = delete;

 private:
  const bool before_;
};

// While one lives that `tunes`, convolutions of a size that is new to the process are timed in all ways that cuDNN has
// for it: some tenths of a second for all of a network, and the fastest is kept. Else cuDNN guesses. Of the process.
class TuningScope {
 public:
  explicit TuningScope(bool tunes);
  ~TuningScope();
  TuningScope(const TuningScope&) = delete;
  TuningScope& operator=(const TuningScope&) = delete;

 private:
  const bool before_;
};

// Gives back what LibTorch keeps of the device's memory without using it.
void EmptyCache(at::Device device);

// How often the host has waited for numbers of the device, which may be idle meanwhile. What was asked for before
// numbers that were waited for is there: it does not count.
int64_t HostWaits();

}  // namespace ham::trainer
