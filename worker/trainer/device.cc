#include "worker/trainer/device.h"

#include <atomic>

#include <ATen/Context.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

namespace ham::trainer {
namespace {

std::atomic<int64_t> host_waits{0};  // ranks may be threads of one process
bool host_as_device = false;

}  // namespace

bool OnHost(const at::Tensor& tensor) { return tensor.is_cpu() && !host_as_device; }

HostAsDevice::HostAsDevice() { host_as_device = true; }

HostAsDevice::~HostAsDevice() { host_as_device = false; }

at::Tensor ToDevice(const at::Tensor& host, at::Device device) {
  if (host.device() == device) return host;
  at::Tensor out = at::empty_like(host, device);
  // From memory that is not pinned, CUDA would wait for the device before it copies.
  out.copy_(device.is_cuda() ? host.pin_memory() : host, /*non_blocking=*/true);
  return out;
}

at::Tensor ToHost(const at::Tensor& tensor) {
  if (OnHost(tensor)) return tensor;
  ++host_waits;
  if (tensor.is_meta()) return at::zeros(tensor.sizes(), tensor.scalar_type());
  // Pinned memory is copied faster, and LibTorch keeps what it once had.
  at::Tensor out = at::empty_like(tensor, at::TensorOptions(at::kCPU).pinned_memory(tensor.is_cuda()));
  return out.copy_(tensor);
}

void AllowTf32(bool allow) {
  at::globalContext().setAllowTF32CuBLAS(allow);
  at::globalContext().setAllowTF32CuDNN(allow);
}

int64_t HostWaits() { return host_waits; }

}  // namespace ham::trainer
