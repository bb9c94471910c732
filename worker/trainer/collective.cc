#include "worker/trainer/collective.h"

#include <ATen/core/Tensor.h>

#include <cstring>

#include "absl/strings/str_cat.h"

namespace ham::trainer {
namespace {

class LocalCollective final : public Collective {
 public:
  LocalCollective() : Collective(0, 1, absl::InfiniteDuration(), absl::InfiniteDuration()) {}

 private:
  absl::Status DoAllReduceSum(float*, int64_t) override { return absl::OkStatus(); }
  absl::Status DoAllReduceSum(double*, int64_t) override { return absl::OkStatus(); }
  absl::Status DoAllGather(const void* in, size_t bytes, void* out) override {
    if (bytes > 0) std::memcpy(out, in, bytes);
    return absl::OkStatus();
  }
  absl::Status DoBarrier() override { return absl::OkStatus(); }
};

}  // namespace

absl::Status Collective::Run(const std::function<absl::Status()>& operation) {
  if (!first_error_.ok()) return first_error_;
  first_error_ = operation();
  if (first_error_.ok()) sequence_.fetch_add(1, std::memory_order_relaxed);
  return first_error_;
}

absl::Status Collective::AllReduceSum(double* data, int64_t count) {
  return Run([&] {
    if (count < 0) return absl::InternalError(absl::StrCat("count ", count, " is negative"));
    return DoAllReduceSum(data, count);
  });
}

absl::Status Collective::AllReduceSum(at::Tensor& flat) {
  return Run([&]() -> absl::Status {
    if (!flat.defined() || !flat.is_cpu() || !flat.is_contiguous()) {
      return absl::InternalError("only a contiguous tensor on the CPU can be summed over ranks");
    }
    if (flat.scalar_type() == at::kFloat) return DoAllReduceSum(flat.mutable_data_ptr<float>(), flat.numel());
    if (flat.scalar_type() == at::kDouble) return DoAllReduceSum(flat.mutable_data_ptr<double>(), flat.numel());
    return absl::InternalError(absl::StrCat("only float32 and float64 tensors are summed over ranks, not ",
                                            c10::toString(flat.scalar_type())));
  });
}

absl::Status Collective::AllGather(const void* in, size_t bytes, void* out) {
  return Run([&] { return DoAllGather(in, bytes, out); });
}

absl::Status Collective::Barrier() {
  return Run([&] { return DoBarrier(); });
}

std::unique_ptr<Collective> MakeLocalCollective() { return std::make_unique<LocalCollective>(); }

}  // namespace ham::trainer
