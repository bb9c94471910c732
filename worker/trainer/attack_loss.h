// What an attack makes larger.
//
// N: rows, K: classes. Stateless; safe from any thread.
#pragma once

#include <ATen/core/Tensor.h>

#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// Gradient of the SUM over rows of a loss with respect to logits [N, K]; labels [N] int64 in [0, K); shares [N, K] or
// undefined, as Batch's targets; goals [N] int64 in [0, K): the class that a targeted attack goes to, not the label.
// All on the host.
//   cross entropy  softmax(logits) - onehot(label), or - shares
//   margin         (largest other logit) - (true logit): +1 at the first such other, -1 at the label
//                  (Carlini, Wagner 2017)
//   dlr            margin / (largest logit - third largest + 1e-12) (Croce, Hein 2020); K >= 3
//   targeted dlr   (goal's logit - true logit) / (largest - (third + fourth largest) / 2 + 1e-12); K >= 4 (likewise)
//   logit difference  (goal's logit) - (true logit)
at::Tensor AttackLossGradient(AttackLoss loss, const at::Tensor& logits, const at::Tensor& labels,
                              const at::Tensor& shares = {}, const at::Tensor& goals = {});

// The loss of each row, [N], of the type and on the device of the logits; labels and goals as [N, K], of both too: of
// cross entropy the shares, else one-hot. goals: undefined where the loss has none.
at::Tensor AttackLossValues(AttackLoss loss, const at::Tensor& logits, const at::Tensor& labels,
                            const at::Tensor& goals = {});

}  // namespace ham::trainer
