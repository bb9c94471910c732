#include "worker/trainer/device.h"

#include <atomic>

#include <ATen/Context.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/core/CachingDeviceAllocator.h>

namespace ham::trainer {
namespace {

// Of all threads: ranks may be such.
std::atomic<int64_t> host_waits{0};
std::atomic<int64_t> copies_asked_for{0}, copies_there{0};  // where one is there, all before it are
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

HostCopy::HostCopy(const at::Tensor& tensor) : host_(tensor) {
  if (OnHost(tensor)) return;
  number_ = ++copies_asked_for;
  if (tensor.is_meta()) {
    host_ = at::zeros(tensor.sizes(), tensor.scalar_type());
  } else if (tensor.is_cpu()) {
    host_ = tensor.clone();
  } else {
    // Into memory that is not pinned, the copy itself would wait. LibTorch keeps what pinned memory it once had.
    host_ = at::empty_like(tensor, at::TensorOptions(at::kCPU).pinned_memory(true));
    host_.copy_(tensor, /*non_blocking=*/true);
    there_.emplace(tensor.device().type());
    there_->record(c10::impl::VirtualGuardImpl(tensor.device().type()).getStream(tensor.device()));
  }
}

const at::Tensor& HostCopy::Get() {
  if (number_ > copies_there) {
    ++host_waits;
    copies_there = number_;
  }
  if (there_) there_->synchronize();
  return host_;
}

void AllowTf32(bool allow) {
  at::globalContext().setAllowTF32CuBLAS(allow);
  at::globalContext().setAllowTF32CuDNN(allow);
}

// Without a GPU nothing is to be set, and ranks may be threads.
Tf32Scope::Tf32Scope() : before_(!at::Context::hasCUDA() || at::globalContext().allowTF32CuDNN()) {
  if (!before_) AllowTf32(true);
}

Tf32Scope::~Tf32Scope() {
  if (!before_) AllowTf32(false);
}

TuningScope::TuningScope(bool tunes)
    : before_(!tunes || !at::Context::hasCUDA() || at::globalContext().benchmarkCuDNN()) {
  if (!before_) at::globalContext().setBenchmarkCuDNN(true);
}

TuningScope::~TuningScope() {
  if (!before_) at::globalContext().setBenchmarkCuDNN(false);
}

void EmptyCache(at::Device device) {
  if (device.is_cuda()) at::getDeviceAllocator(device.type())->emptyCache();
}

int64_t HostWaits() { return host_waits; }

}  // namespace ham::trainer
