// Projected gradient ascent in the ball around each image (Madry et al., 2018).
//
// N: rows, K: classes. Stateless; safe from any thread. A row's result does not depend on the
// rows beside it.
#pragma once

#include <cstdint>
#include <functional>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "worker/trainer/batch.h"
#include "worker/trainer/models/model.h"
#include "worker/trainer/perturbation.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// Gradient of the SUM over rows of a loss with respect to logits [N, K]; labels [N] int64 in [0, K); targets [N, K] or
// undefined, as Batch has them.
//   cross entropy  softmax(logits) - onehot(label), or - targets
//   margin         (largest other logit) - (true logit): +1 at the first such other, -1 at the label
//                  (Carlini, Wagner 2017)
//   dlr            margin / (largest logit - third largest + 1e-12) (Croce, Hein 2020); K >= 3
at::Tensor AttackLossGradient(AttackLoss loss, const at::Tensor& logits, const at::Tensor& labels,
                              const at::Tensor& targets = {});

// An attack in training mode of BatchNorm: each step normalises by its own batch and moves the running statistics, as
// the recipes do that never leave training mode. All ranks take the same number of steps, also one without rows.
struct TrainingModeAttack {
  const Model* model = nullptr;
  Collective* collective = nullptr;  // null: one rank
  ParameterSet* batch = nullptr;     // scratch
  ParameterSet* weights = nullptr;   // whose running statistics move: the attacked ones
};

struct Ascent {
  AttackLoss loss = AttackLoss::kCrossEntropy;
  Ball ball;
  double step_size = 0;
  int steps = 0;
  // Called before each step with x_0, x_1, ... and their logits in InputGradient(), [>= N, K]; the first N of both are
  // of rows.
  std::function<void(const at::Tensor& x, const at::Tensor& logits)> observe = {};
  TrainingModeAttack* training = nullptr;  // null: evaluation mode, in which rows do not depend on each other; else
                                           // the frozen network is not asked
};

// `ascent.steps` steps from `start` [N, C, H, W], which lies in the ball around `clean.x` (same shape and layout, as
// NewImages()). N may be 0. `tick` is called after each step. Errors are the collective's.
absl::StatusOr<at::Tensor> Ascend(const FrozenNetwork& network, const Batch& clean, const at::Tensor& start,
                                  const Ascent& ascent, const std::function<void()>& tick);

// Logits [N, K] for any N, by batches of at least kMinimumRows rows.
at::Tensor PaddedLogits(const Model& model, const ParameterSet& weights, const at::Tensor& x);

}  // namespace ham::trainer
