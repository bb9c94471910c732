// Numbers between the host and the device that a rank computes on.
//
// On the device lie weights, gradients, images, their targets and logits; labels, ids, masks and counts are the host's.
// One thread.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

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

// The numbers of `tensor` on the host, itself if it lies there. Waits until the device has done all that was asked of
// it. A tensor of the device "meta", which has shapes only, gives zeros: so tests walk through a whole step.
at::Tensor ToHost(const at::Tensor& tensor);

// Whether GPUs may compute in TF32 where numbers are float32; LibTorch's default is that convolutions do. Of the
// process.
void AllowTf32(bool allow);

// How often ToHost has waited for the device. A step that waits leaves the device idle meanwhile.
int64_t HostWaits();

}  // namespace ham::trainer
