// SGD with momentum, Adam and AdamW, by PyTorch's formulas, on a flat buffer.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "worker/trainer/models/parameter_set.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// L2 norm of what gradients train, summed in float64 in a fixed order. On the host.
double GradientNorm(const ParameterSet& gradients);

// With gradient_clip_norm > 0, g is first scaled by min(1, gradient_clip_norm / (gradient_norm + 1e-6)). Decay is
// weight_decay, or without decay_norm_and_bias 0 for all but ParameterKind::kWeight; for sgd and adam it is an L2 term:
// g <- g + decay * w; for adamw w <- (1 - rate * decay) * w. Then
//   sgd          m <- momentum * m + g;                                w <- w - rate * m, with nesterov
//                w <- w - rate * (g + momentum * m)
//   adam, adamw  m <- m + 0.1 (g - m);  v <- 0.999 v + 0.001 g^2;      t: updates done, this one included
//                w <- w - rate / (1 - 0.9^t) * m / (sqrt(v) / sqrt(1 - 0.999^t) + 1e-8)
// One thread at a time.
class Optimizer {
 public:
  Optimizer(const OptimizerOptions& options, const std::vector<ParameterSpec>& specs,
            const at::TensorOptions& tensor_options = at::kFloat);

  // All of one type, on one device. gradient_norm: of `gradients`.
  void Update(const ParameterSet& gradients, double gradient_norm, double learning_rate, ParameterSet* weights);

  // What an update changes beside the weights. Where that is put back, Uncount() takes back its number.
  std::vector<at::Tensor> state() const;
  void Uncount() { --updates_; }

  // State for an exact resume: tensors "momentum.NAME", "variance.NAME" (not of sgd), and the number of updates.
  void Export(TensorMap* out) const;
  absl::Status Import(const TensorMap& in, int64_t updates);
  int64_t updates() const { return updates_; }

 private:
  // Neighbours with one decay.
  struct Segment {
    int64_t begin = 0, end = 0;
    double decay = 0;
  };

  template <typename T>
  void UpdateSgd(const Segment& segment, const ParameterSet& gradients, double scale, double learning_rate,
                 ParameterSet* weights);
  template <typename T>
  void UpdateAdam(const Segment& segment, const ParameterSet& gradients, double scale, double learning_rate,
                  ParameterSet* weights);

  void UpdateOnDevice(const ParameterSet& gradients, double scale, double learning_rate, ParameterSet* weights);

  const OptimizerOptions options_;
  std::vector<Segment> segments_;  // from 0 to the last element that gradients train
  ParameterSet momentum_;
  ParameterSet variance_;  // second moment; unused by sgd
  at::Tensor decay_;       // of each number that gradients train; on a device, from its first update on
  int64_t updates_ = 0;
};

}  // namespace ham::trainer
