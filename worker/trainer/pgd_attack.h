// Projected gradient ascent in the ball around each image (Madry et al., 2018).
//
// N: rows, K: classes. A row's result does not depend on the rows beside it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "worker/trainer/batch.h"
#include "worker/trainer/device_ops.h"
#include "worker/trainer/network_passes.h"
#include "worker/trainer/perturbation.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// An attack in training mode of BatchNorm: each step normalises by its own batch and moves the running statistics, as
// the recipes do that never leave training mode. All ranks take the same number of steps, also one without rows.
struct TrainingModeAttack {
  Collective* collective = nullptr;  // null: one rank
  ParameterSet* batch = nullptr;     // scratch
  ParameterSet* weights = nullptr;   // whose running statistics move: the attacked ones
};

// Steps of projected gradient ascent in the ball around the same images, on a host or on a device.
class AscentStep {
 public:
  AscentStep(const Ball& ball, double step_size, const at::Tensor& clean);
  // x <- the next point. gradient: of these images, as x.
  void Take(const at::Tensor& gradient, at::Tensor x) const;

 private:
  const Ball ball_;
  const double step_size_;
  const at::Tensor clean_;
  std::optional<device::Projection> projection_;  // on a device
};

struct Ascent {
  AttackLoss loss = AttackLoss::kCrossEntropy;
  Ball ball;
  double step_size = 0;
  int steps = 0;
  // Called before each step with x_0, x_1, ... and their logits in the attack, [>= N, K]; the first N of both are of
  // rows. Both change with the next step.
  std::function<void(const at::Tensor& x, const at::Tensor& logits)> observe = {};
  TrainingModeAttack* training = nullptr;  // null: evaluation mode, in which rows do not depend on each other
};

// `ascent.steps` steps from `start` [N, C, H, W], which lies in the ball around `clean.x` (same shape and layout, as
// NewImages()), on the network that `passes` has frozen. N may be 0. `tick` is called after each step. Errors are the
// collective's.
absl::StatusOr<at::Tensor> Ascend(NetworkPasses& passes, const Batch& clean, const at::Tensor& start,
                                  const Ascent& ascent, const std::function<void()>& tick);

}  // namespace ham::trainer
