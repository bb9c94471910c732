#include "worker/trainer/gradient_reducer.h"

#include <cmath>

#include <ATen/ops/zeros.h>

namespace ham::trainer {
namespace {

enum Sum { kLoss, kWeight, kRows, kHardRows, kKeptRows, kNonFiniteRanks, kSums };

}  // namespace

// x * 0 is 0 for finite x and NaN otherwise; sums of these stay one or the other.
bool AllFinite(const float* values, int64_t count) {
  float poison[8] = {};
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (int k = 0; k < 8; ++k) poison[k] += values[i + k] * 0.0f;
  }
  for (; i < count; ++i) poison[0] += values[i] * 0.0f;
  float total = 0;
  for (float p : poison) total += p;
  return total == 0;
}

GradientReducer::GradientReducer(const std::vector<ParameterSpec>& specs)
    : bucket_(at::zeros({ParameterCount(specs) + kSums}, at::kFloat)),
      gradients_(specs, bucket_.narrow(0, 0, ParameterCount(specs))) {}

absl::StatusOr<StepSums> GradientReducer::Reduce(const StepSums& local, Collective& collective) {
  const int64_t parameters = gradients_.size();
  float* gradient = bucket_.data_ptr<float>();
  float* sums = gradient + parameters;
  const bool finite = local.finite && std::isfinite(local.loss) && AllFinite(gradient, parameters);
  sums[kLoss] = static_cast<float>(local.loss);
  sums[kWeight] = static_cast<float>(local.weight);
  sums[kRows] = static_cast<float>(local.rows);
  sums[kHardRows] = static_cast<float>(local.hard_rows);
  sums[kKeptRows] = static_cast<float>(local.kept_rows);
  sums[kNonFiniteRanks] = finite ? 0 : 1;
  if (absl::Status status = collective.AllReduceSum(bucket_); !status.ok()) return status;
  StepSums global;
  global.loss = sums[kLoss];
  global.weight = sums[kWeight];
  global.rows = std::lround(sums[kRows]);
  global.hard_rows = std::lround(sums[kHardRows]);
  global.kept_rows = std::lround(sums[kKeptRows]);
  if (global.weight > 0) {
    const float scale = 1.0f / sums[kWeight];
    for (int64_t i = 0; i < parameters; ++i) gradient[i] *= scale;
  }
  global.finite = sums[kNonFiniteRanks] == 0 && std::isfinite(sums[kLoss]) && AllFinite(gradient, parameters);
  return global;
}

}  // namespace ham::trainer
