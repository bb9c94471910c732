// What an attack makes larger.
//
// N: rows, K: classes. Stateless; safe from any thread.
#pragma once

#include <ATen/core/Tensor.h>

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

}  // namespace ham::trainer
