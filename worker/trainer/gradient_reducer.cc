#include "worker/trainer/gradient_reducer.h"

#include <cmath>
#include <utility>

#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

namespace ham::trainer {
namespace {

enum Sum { kLoss, kWeight, kRows, kHardRows, kKeptRows, kNonFiniteRanks, kSums };

}  // namespace

// x * 0 is 0 for finite x and NaN otherwise; sums of these stay one or the other.
bool AllFinite(const at::Tensor& flat) {
  return VisitReal(flat.scalar_type(), [&]<typename T>(T) {
    const T* values = flat.const_data_ptr<T>();
    const int64_t count = flat.numel();
    T poison[8] = {};
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
      for (int k = 0; k < 8; ++k) poison[k] += values[i + k] * T{0};
    }
    for (; i < count; ++i) poison[0] += values[i] * T{0};
    T total = 0;
    for (T p : poison) total += p;
    return total == 0;
  });
}

GradientReducer::GradientReducer(const std::vector<ParameterSpec>& specs, const StepCounts& counts, at::ScalarType type)
    : no_counts_(counts),
      bucket_(at::zeros({ParameterCount(specs) + kSums + counts.size()}, type)),
      gradients_(specs, bucket_.narrow(0, 0, ParameterCount(specs))) {}

absl::StatusOr<StepSums> GradientReducer::Reduce(const StepSums& local, Collective& collective) {
  return VisitReal(bucket_.scalar_type(), [&]<typename T>(T) { return ReduceAs<T>(local, collective); });
}

void GradientReducer::WeighStatistics(int64_t rows) { gradients_.statistics().mul_(static_cast<double>(rows)); }

void GradientReducer::AddPart(int64_t kept_rows) {
  WeighStatistics(kept_rows);
  if (!parts_.defined()) parts_ = at::empty_like(gradients_.flat());
  if (in_parts_) {
    parts_.add_(gradients_.flat());
  } else {
    parts_.copy_(gradients_.flat());
  }
  in_parts_ = true;
}

template <typename T>
absl::StatusOr<StepSums> GradientReducer::ReduceAs(const StepSums& local, Collective& collective) {
  const int64_t trained = gradients_.trained_size(), size = gradients_.size();
  const int64_t behind = trained + gradients_.statistics_size();
  T* gradient = bucket_.data_ptr<T>();
  T* sums = gradient + size;
  if (std::exchange(in_parts_, false)) {
    gradients_.flat().copy_(parts_);
  } else {
    WeighStatistics(local.kept_rows);
  }
  const bool finite = local.finite && std::isfinite(local.loss) && AllFinite(gradients_.flat());
  const auto scale = [&](int64_t begin, int64_t end, T factor) {
    for (int64_t i = begin; i < end; ++i) gradient[i] *= factor;
  };
  sums[kLoss] = static_cast<T>(local.loss);
  sums[kWeight] = static_cast<T>(local.weight);
  sums[kRows] = static_cast<T>(local.rows);
  sums[kHardRows] = static_cast<T>(local.hard_rows);
  sums[kKeptRows] = static_cast<T>(local.kept_rows);
  sums[kNonFiniteRanks] = finite ? 0 : 1;
  T* next = sums + kSums;
  for (const auto member : StepCounts::Members) {
    for (int64_t count : local.counts.*member) *next++ = static_cast<T>(count);
  }
  if (absl::Status status = collective.AllReduceSum(bucket_); !status.ok()) return status;
  StepSums global;
  global.counts = local.counts;
  next = sums + kSums;
  for (const auto member : StepCounts::Members) {
    for (int64_t& count : global.counts.*member) count = std::lround(*next++);
  }
  global.loss = sums[kLoss];
  global.weight = sums[kWeight];
  global.rows = std::lround(sums[kRows]);
  global.hard_rows = std::lround(sums[kHardRows]);
  global.kept_rows = std::lround(sums[kKeptRows]);
  if (global.weight > 0) scale(0, trained, T{1} / sums[kWeight]);
  if (global.kept_rows > 0) scale(trained, behind, T{1} / sums[kKeptRows]);
  global.finite = sums[kNonFiniteRanks] == 0 && std::isfinite(sums[kLoss]) && AllFinite(gradients_.flat());
  return global;
}

}  // namespace ham::trainer
