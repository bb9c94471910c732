// SGD with momentum and Adam, by PyTorch's formulas, on a flat buffer.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "worker/trainer/models/parameter_set.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// Weight decay is an L2 term: g <- g + weight_decay * w, before anything else.
//   sgd   m <- g in the first update, momentum * m + g after;   w <- w - rate * m
//   adam  m <- m + 0.1 (g - m);  v <- 0.999 v + 0.001 g^2;      t: updates done, this one included
//         w <- w - rate / (1 - 0.9^t) * m / (sqrt(v) / sqrt(1 - 0.999^t) + 1e-8)
// One thread at a time.
class Optimizer {
 public:
  Optimizer(const OptimizerOptions& options, const std::vector<ParameterSpec>& specs,
            at::ScalarType type = at::kFloat);

  void Update(const ParameterSet& gradients, double learning_rate, ParameterSet* weights);

  // State for an exact resume: tensors "momentum.NAME", "variance.NAME" (adam), and the number of updates.
  void Export(TensorMap* out) const;
  absl::Status Import(const TensorMap& in, int64_t updates);
  int64_t updates() const { return updates_; }

 private:
  template <typename T>
  void UpdateAs(const ParameterSet& gradients, double learning_rate, ParameterSet* weights);

  const OptimizerOptions options_;
  ParameterSet momentum_;
  ParameterSet variance_;  // adam's second moment; unused by sgd
  int64_t updates_ = 0;
};

// average <- decay * average + (1 - decay) * weights, running statistics included
void UpdateAverage(double decay, const ParameterSet& weights, ParameterSet* average);

}  // namespace ham::trainer
