#include "worker/trainer/weight_average.h"

#include <ATen/ops/tensor.h>

#include "worker/trainer/device.h"

namespace ham::trainer {
namespace {

constexpr char kAverageCount[] = "average_count";

// average <- keep * average + take * weights
void Mix(double keep, double take, const ParameterSet& weights, ParameterSet* average) {
  if (!OnHost(weights.flat())) {
    average->flat().mul_(keep).add_(weights.flat(), take);
    return;
  }
  VisitReal(weights.type(), [&]<typename T>(T) {
    const auto old_share = static_cast<T>(keep);
    const auto new_share = static_cast<T>(take);
    const T* __restrict w = weights.flat().const_data_ptr<T>();
    T* __restrict a = average->flat().data_ptr<T>();
    for (int64_t i = 0; i < weights.size(); ++i) a[i] = old_share * a[i] + new_share * w[i];
  });
}

}  // namespace

WeightAverage::WeightAverage(const TrainSpec& spec, const ParameterSet& first_weights)
    : ema_decay_(spec.ema_decay), swa_start_epoch_(spec.swa_start_epoch), average_(first_weights.Clone()) {}

void WeightAverage::AfterUpdate(const ParameterSet& weights) {
  if (ema_decay_ > 0) Mix(ema_decay_, 1 - ema_decay_, weights, &average_);
}

void WeightAverage::AfterEpoch(int epoch, const ParameterSet& weights) {
  if (swa_start_epoch_ == 0 || epoch < swa_start_epoch_) return;
  ++epochs_;
  const double share = 1 / static_cast<double>(epochs_);
  Mix(1 - share, share, weights, &average_);
}

ParameterSet WeightAverage::Or(const ParameterSet& weights) const { return Exists() ? average_ : weights; }

void WeightAverage::Export(TensorMap* out) const {
  if (!Exists()) return;
  average_.Export(kAveragePrefix, out);
  (*out)[kAverageCount] = at::tensor(epochs_);
}

absl::Status WeightAverage::Import(const TensorMap& in) {
  const auto count = in.find(kAverageCount);
  if (count == in.end() && ema_decay_ == 0) return absl::OkStatus();  // from before swa_start_epoch
  if (count == in.end() || count->second.scalar_type() != at::kLong || count->second.numel() != 1 ||
      count->second.const_data_ptr<int64_t>()[0] < 0) {
    return absl::InvalidArgumentError("the tensor average_count is missing or no count");
  }
  epochs_ = count->second.const_data_ptr<int64_t>()[0];
  return average_.Import(kAveragePrefix, in);
}

}  // namespace ham::trainer
