#include "worker/trainer/precision.h"

#include "absl/strings/str_format.h"

namespace ham::trainer {
namespace {

constexpr int kAmpere = 80;  // the first with TF32, and with bfloat16 that is not emulated

}  // namespace

NumberTypes TypesOf(Precision precision) {
  switch (precision) {
    case Precision::kFp64:
      return {at::kDouble, at::kDouble, false};
    case Precision::kBf16:
      return {at::kFloat, at::kBFloat16, false};
    case Precision::kTf32:
      return {at::kFloat, at::kFloat, true};
    case Precision::kFp32:
      break;
  }
  return {at::kFloat, at::kFloat, false};
}

absl::Status CheckPrecision(Precision precision, const std::string& gpu, int compute_capability) {
  const bool is_bf16 = precision == Precision::kBf16;
  if ((!is_bf16 && precision != Precision::kTf32) || compute_capability >= kAmpere) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrFormat(
      "precision is %s, which the GPU %s (compute capability %d.%d) lacks: take one of compute capability 8.0 or "
      "newer, or set precision to fp32",
      is_bf16 ? "bf16" : "tf32", gpu, compute_capability / 10, compute_capability % 10));
}

}  // namespace ham::trainer
