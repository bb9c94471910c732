#include "worker/trainer/cuda/nccl_calls.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace ham::trainer {
namespace {

absl::Status CudaFailed(cudaError_t code) {
  return absl::UnavailableError(absl::StrCat("the GPU failed: ", cudaGetErrorString(code)));
}

class LinkedNccl final : public NcclCalls {
 public:
  explicit LinkedNccl(c10::Device device) : device_(device) {
    C10_CUDA_CHECK(cudaEventCreateWithFlags(&mark_, cudaEventDisableTiming));
  }
  ~LinkedNccl() override { cudaEventDestroy(mark_); }

  std::string Version() override {
    int version = 0;
    ncclGetVersion(&version);
    return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
  }

  std::string DeviceUuid() override {
    cudaDeviceProp properties{};
    C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, device_.index()));
    const std::string hex = absl::BytesToHexString(absl::string_view(properties.uuid.bytes, 16));
    return absl::StrCat("GPU-", hex.substr(0, 8), "-", hex.substr(8, 4), "-", hex.substr(12, 4), "-", hex.substr(16, 4),
                        "-", hex.substr(20));
  }

  absl::StatusOr<std::string> MakeUniqueId() override {
    ncclUniqueId id;
    if (absl::Status status = Check(ncclGetUniqueId(&id)); !status.ok()) return status;
    return std::string(id.internal, sizeof(id.internal));
  }

  absl::Status Connect(const std::string& unique_id, int rank, int world_size) override {
    ncclUniqueId id;
    if (unique_id.size() != sizeof(id.internal)) {
      return absl::InternalError(absl::StrCat("the id that rank 0 made has ", unique_id.size(), " bytes"));
    }
    std::memcpy(id.internal, unique_id.data(), sizeof(id.internal));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    return Check(ncclCommInitRankConfig(&communicator_, world_size, id, rank, &config));
  }

  absl::StatusOr<bool> Idle() override {
    ncclResult_t state = ncclSuccess;
    if (absl::Status status = Check(ncclCommGetAsyncError(communicator_, &state)); !status.ok()) return status;
    if (absl::Status status = Check(state); !status.ok()) return status;
    return state == ncclSuccess;
  }

  absl::Status SumFloats(float* data, int64_t count) override { return Sum(data, count, ncclFloat32); }
  absl::Status SumDoubles(double* data, int64_t count) override { return Sum(data, count, ncclFloat64); }

  absl::Status Gather(void* all, size_t bytes) override {
    int rank = 0;
    if (absl::Status status = Check(ncclCommUserRank(communicator_, &rank)); !status.ok()) return status;
    const char* mine = static_cast<const char*>(all) + static_cast<size_t>(rank) * bytes;
    return Check(ncclAllGather(mine, all, bytes, ncclUint8, communicator_, Stream()));
  }

  absl::Status Mark() override {
    const cudaError_t code = cudaEventRecord(mark_, Stream());
    return code == cudaSuccess ? absl::OkStatus() : CudaFailed(code);
  }

  absl::StatusOr<bool> Reached() override {
    const cudaError_t code = cudaEventQuery(mark_);
    if (code == cudaSuccess || code == cudaErrorNotReady) return code == cudaSuccess;
    return CudaFailed(code);
  }

  absl::Status Finalize() override { return Check(ncclCommFinalize(communicator_)); }
  void Destroy() override { ncclCommDestroy(communicator_); }
  void Abort() override {
    if (communicator_ != nullptr) ncclCommAbort(communicator_);
  }

 private:
  cudaStream_t Stream() const { return c10::cuda::getCurrentCUDAStream(device_.index()).stream(); }

  absl::Status Sum(void* data, int64_t count, ncclDataType_t type) {
    return Check(ncclAllReduce(data, data, static_cast<size_t>(count), type, ncclSum, communicator_, Stream()));
  }

  absl::Status Check(ncclResult_t result) const {
    if (result == ncclSuccess || result == ncclInProgress) return absl::OkStatus();
    std::string text = ncclGetErrorString(result);
    if (const char* details = ncclGetLastError(communicator_); details != nullptr && *details != '\0') {
      absl::StrAppend(&text, " (", details, ")");
    }
    const bool misuse = result == ncclInvalidArgument || result == ncclInvalidUsage;
    return misuse ? absl::InternalError(text) : absl::UnavailableError(text);
  }

  const c10::Device device_;
  cudaEvent_t mark_ = nullptr;
  ncclComm_t communicator_ = nullptr;
};

}  // namespace

std::unique_ptr<NcclCalls> MakeNcclCalls(c10::Device device) { return std::make_unique<LinkedNccl>(device); }

}  // namespace ham::trainer
