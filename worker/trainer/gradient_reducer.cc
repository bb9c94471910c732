#include "worker/trainer/gradient_reducer.h"

#include <cmath>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "worker/trainer/device.h"
#include "worker/trainer/device_ops.h"
#include "worker/trainer/optimizer.h"

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

const StepSums& GlobalSums::Get() {
  if (!sums_) sums_ = unpack_(numbers_->Get());
  return *sums_;
}

at::Tensor GlobalSums::Counts(int64_t needed) const {
  if (!finite_.defined()) return {};
  return at::bitwise_and(finite_ > 0, kept_rows_ >= static_cast<double>(needed));
}

GradientReducer::GradientReducer(const std::vector<ParameterSpec>& specs, const StepCounts& counts,
                                 const at::TensorOptions& options)
    : no_counts_(counts),
      bucket_(at::zeros({ParameterCount(specs) + kSums + counts.size()}, options)),
      gradients_(specs, bucket_.narrow(0, 0, ParameterCount(specs))) {}

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

at::Tensor GradientReducer::Pack(const StepSums& local) const {
  std::vector<double> sums(kSums);
  sums[kLoss] = local.loss;
  sums[kWeight] = local.weight;
  sums[kRows] = static_cast<double>(local.rows);
  sums[kHardRows] = static_cast<double>(local.hard_rows);
  sums[kKeptRows] = static_cast<double>(local.kept_rows);
  for (const auto member : StepCounts::Members) {
    sums.insert(sums.end(), (local.counts.*member).begin(), (local.counts.*member).end());
  }
  return at::tensor(sums, bucket_.scalar_type());
}

StepSums GradientReducer::Unpack(const at::Tensor& sums) const {
  const at::Tensor as_double = sums.to(at::kDouble);
  const double* next = as_double.const_data_ptr<double>();
  StepSums out{.loss = next[kLoss],
               .weight = next[kWeight],
               .rows = std::lround(next[kRows]),
               .hard_rows = std::lround(next[kHardRows]),
               .kept_rows = std::lround(next[kKeptRows]),
               .finite = next[kNonFiniteRanks] == 0 && std::isfinite(next[kLoss]),
               .counts = no_counts_};
  next += kSums;
  for (const auto member : StepCounts::Members) {
    for (int64_t& count : out.counts.*member) count = std::lround(*next++);
  }
  return out;
}

absl::StatusOr<GlobalSums> GradientReducer::Reduce(const StepSums& local, Collective& collective) {
  if (std::exchange(in_parts_, false)) {
    gradients_.flat().copy_(parts_);
  } else {
    WeighStatistics(local.kept_rows);
  }
  return OnHost(bucket_) ? ReduceOnHost(local, collective) : ReduceOnDevice(local, collective);
}

absl::StatusOr<GlobalSums> GradientReducer::ReduceOnHost(const StepSums& local, Collective& collective) {
  const int64_t trained = gradients_.trained_size(), size = gradients_.size();
  const bool finite = local.finite && std::isfinite(local.loss) && AllFinite(gradients_.flat());
  const at::Tensor sums = bucket_.narrow(0, size, bucket_.numel() - size);
  sums.copy_(Pack(local));
  sums.narrow(0, kNonFiniteRanks, 1).fill_(finite ? 0 : 1);
  if (absl::Status status = collective.AllReduceSum(bucket_); !status.ok()) return status;
  StepSums global = Unpack(sums);
  VisitReal(bucket_.scalar_type(), [&]<typename T>(T) {
    T* gradient = bucket_.data_ptr<T>();
    const T* total = gradient + size;
    const auto scale = [&](int64_t begin, int64_t end, T factor) {
      for (int64_t i = begin; i < end; ++i) gradient[i] *= factor;
    };
    if (global.weight > 0) scale(0, trained, T{1} / total[kWeight]);
    if (global.kept_rows > 0) scale(trained, trained + gradients_.statistics_size(), T{1} / total[kKeptRows]);
  });
  global.finite = global.finite && AllFinite(gradients_.flat());
  global.gradient_norm = GradientNorm(gradients_);
  return GlobalSums(std::move(global));
}

// The same; the host waits for nothing but the sum over ranks.
absl::StatusOr<GlobalSums> GradientReducer::ReduceOnDevice(const StepSums& local, Collective& collective) {
  const int64_t size = gradients_.size(), classes = static_cast<int64_t>(local.counts.class_rows.size());
  const at::Tensor sums = bucket_.narrow(0, size, bucket_.numel() - size);
  sums.copy_(ToDevice(Pack(local), bucket_.device()), /*non_blocking=*/true);
  if (local.on_device.defined()) {
    int64_t taken = 0;
    const auto add = [&](int64_t place, int64_t count) {
      sums.narrow(0, place, count).add_(local.on_device.narrow(0, taken, count));
      taken += count;
    };
    add(kLoss, 1);
    add(kSums + local.counts.OffsetOf(&StepCounts::class_right), classes);
    add(kSums + local.counts.OffsetOf(&StepCounts::confidence), classes * kConfidenceBins);
  }
  const at::Tensor loss = sums.narrow(0, kLoss, 1);
  sums.narrow(0, kNonFiniteRanks, 1).copy_(1 - device::AllFinite(gradients_.flat()) * device::AllFinite(loss));
  if (absl::Status status = collective.AllReduceSum(bucket_); !status.ok()) return status;
  const auto divide = [&](const at::Tensor& numbers, Sum by) {
    const at::Tensor divisor = sums.narrow(0, by, 1);
    numbers.div_(at::where(divisor > 0, divisor, at::ones_like(divisor)));
  };
  const at::Tensor trained = gradients_.flat().narrow(0, 0, gradients_.trained_size());
  divide(trained, kWeight);
  divide(gradients_.statistics(), kKeptRows);
  const at::Tensor norm = at::linalg_vector_norm(trained, 2, {}, false, at::kDouble),
                   finite = device::AllFinite(gradients_.flat());
  const auto unpack = [this, count = sums.numel()](const at::Tensor& all) {
    StepSums global = Unpack(all.narrow(0, 0, count));
    const double* last = all.const_data_ptr<double>() + count;
    global.gradient_norm = last[0];
    global.finite = global.finite && last[1] > 0;
    return global;
  };
  const at::Tensor all_finite =
      finite * device::AllFinite(loss) * (sums.narrow(0, kNonFiniteRanks, 1) == 0).to(at::kDouble);
  return GlobalSums(HostCopy(at::cat({sums.to(at::kDouble), norm.view(1), finite.view(1)})), unpack,
                    all_finite.squeeze(0), sums.select(0, kKeptRows).clone());
}

}  // namespace ham::trainer
