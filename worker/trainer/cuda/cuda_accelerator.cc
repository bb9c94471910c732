#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/ones.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <exception>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/trainer/accelerator.h"
#include "worker/trainer/cuda/nccl_collective.h"

namespace ham::trainer {
namespace {

std::string CudaVersion(int version) { return absl::StrCat(version / 1000, ".", version % 1000 / 10); }

class CudaGraph final : public RecordedWork {
 public:
  CudaGraph(const std::function<void()>& work, at::MempoolId_t pool) {
    // Other threads go on while this one records: only its own calls must be such as can be recorded.
    graph_.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      const std::exception_ptr reason = std::current_exception();
      try {
        graph_.capture_end();
      } catch (const std::exception&) {  // `reason` says more
      }
      std::rethrow_exception(reason);
    }
    graph_.capture_end();
  }

  void Replay() override { graph_.replay(); }

 private:
  at::cuda::CUDAGraph graph_;
};

// Events in the stream of the work. Each time is the one before and what CUDA says has passed since: it counts in
// float32 milliseconds, which over a whole run would be coarse.
class EventClock final : public PhaseClock {
 public:
  void Mark() override {
    at::cuda::CUDAEvent event(cudaEventDefault);
    if (!free_.empty()) {
      event = std::move(free_.back());
      free_.pop_back();
    }
    event.record();
    marks_.push_back(std::move(event));
  }

  std::vector<double> Take(size_t count) override {
    std::vector<double> out;
    if (count == 0) return out;
    marks_[count - 1].synchronize();
    for (size_t i = 0; i < count; ++i) {
      if (last_) {
        now_ += last_->elapsed_time(marks_[i]) / 1000;
        free_.push_back(*std::move(last_));
      }
      last_ = std::move(marks_[i]);
      out.push_back(now_);
    }
    marks_.erase(marks_.begin(), marks_.begin() + static_cast<std::ptrdiff_t>(count));
    return out;
  }

 private:
  std::vector<at::cuda::CUDAEvent> marks_, free_;
  std::optional<at::cuda::CUDAEvent> last_;  // taken, at now_
  double now_ = 0;
};

class CudaAccelerator final : public Accelerator {
 public:
  explicit CudaAccelerator(const cudaDeviceProp& gpu)
      : name_(gpu.name),
        compute_capability_(10 * gpu.major + gpu.minor),
        recording_stream_(c10::cuda::getStreamFromPool()),
        pool_(at::cuda::graph_pool_handle()) {}

  c10::Device device() const override { return c10::Device(c10::kCUDA, 0); }
  const std::string& name() const override { return name_; }
  int compute_capability() const override { return compute_capability_; }

  absl::StatusOr<std::unique_ptr<Collective>> Connect(const RankGroup& group, KeyValueStore& store) override {
    return ConnectNccl(group, device(), MakeNcclCalls(device()), store);
  }

  std::unique_ptr<RecordedWork> Record(const std::function<void()>& work) override {
    if (keeper_ == nullptr) {
      at::Tensor token = at::ones({1}, device());
      keeper_ = TryRecord([token]() mutable { token.zero_(); });
    }
    try {
      return TryRecord(work);
    } catch (const c10::OutOfMemoryError&) {
      // While it records, LibTorch's allocator may not give back what it keeps of other work.
      c10::cuda::CUDACachingAllocator::emptyCache();
      return TryRecord(work);
    }
  }

  std::unique_ptr<PhaseClock> NewClock() override { return std::make_unique<EventClock>(); }

 private:
  // On a stream of its own, because the default one cannot be recorded.
  std::unique_ptr<RecordedWork> TryRecord(const std::function<void()>& work) {
    C10_CUDA_CHECK(cudaStreamSynchronize(c10::cuda::getCurrentCUDAStream()));
    std::unique_ptr<RecordedWork> recorded;
    {
      const c10::cuda::CUDAStreamGuard guard(recording_stream_);
      work();  // LibTorch's libraries make what they keep for each stream
      recorded = std::make_unique<CudaGraph>(work, pool_);
    }
    C10_CUDA_CHECK(cudaStreamSynchronize(recording_stream_));
    return recorded;
  }

  const std::string name_;
  const int compute_capability_;
  const c10::cuda::CUDAStream recording_stream_;
  // Of what recordings use within themselves; they are replayed one after the other, so all may use the same.
  const at::MempoolId_t pool_;
  // Of next to nothing: LibTorch gives a pool up for good with the last recording of it.
  std::unique_ptr<RecordedWork> keeper_;
};

// Runs one kernel: only that shows whether LibTorch has code for this GPU.
absl::Status CheckArchitecture(const cudaDeviceProp& gpu) {
  try {
    at::ones({1}, at::kCUDA);
    C10_CUDA_CHECK(cudaDeviceSynchronize());
    return absl::OkStatus();
  } catch (const c10::AcceleratorError& error) {
    const std::string subject =
        absl::StrCat("the GPU ", gpu.name, " (compute capability ", gpu.major, ".", gpu.minor, ") cannot be used: ");
    if (error.get_error_code() == cudaErrorNoKernelImageForDevice) {
      return absl::FailedPreconditionError(
          absl::StrCat(subject, "LibTorch has no code for it; use a GPU of compute capability 7.5 or newer"));
    }
    return absl::FailedPreconditionError(
        absl::StrCat(subject, cudaGetErrorString(static_cast<cudaError_t>(error.get_error_code()))));
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Accelerator>> MakeAccelerator() {
  int driver = 0;
  cudaDriverGetVersion(&driver);  // leaves 0 where there is none
  if (driver == 0) {
    return absl::FailedPreconditionError(
        "there is no NVIDIA driver on this host: install one of version 580 or newer, or set train.resources.device to "
        "cpu");
  }
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    return absl::FailedPreconditionError(absl::StrCat("the NVIDIA driver of this host is too old, it is for CUDA ",
                                                      CudaVersion(driver), ": this program needs CUDA ",
                                                      CudaVersion(CUDART_VERSION), ", driver 580 or newer"));
  }
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
    return absl::FailedPreconditionError(
        "there is no NVIDIA GPU that this process may use: see nvidia-smi and CUDA_VISIBLE_DEVICES, or set "
        "train.resources.device to cpu");
  }
  cudaDeviceProp gpu{};
  const cudaError_t unusable = error == cudaSuccess ? cudaGetDeviceProperties(&gpu, 0) : error;
  if (unusable != cudaSuccess) {
    return absl::FailedPreconditionError(
        absl::StrCat("the NVIDIA GPU cannot be used: ", cudaGetErrorString(unusable), "; see nvidia-smi"));
  }
  if (absl::Status status = CheckArchitecture(gpu); !status.ok()) return status;
  return std::make_unique<CudaAccelerator>(gpu);
}

}  // namespace ham::trainer
