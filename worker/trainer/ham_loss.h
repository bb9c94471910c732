// The training loss of HAM: sums over kept rows, to be divided once by the sum of weights over all ranks.
//
// Dividing on each rank first would weight the rows of a rank with few hard rows more (a rank with one loss of 4
// beside one with three of 0 gives 1, not 2). N: rows, K: classes. Stateless; safe from any thread.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace ham::trainer {

struct LossSum {
  double loss = 0;      // sum of weight * cross entropy
  double weight = 0;    // sum of weights
  at::Tensor gradient;  // [logits.size(0), K] of `loss` with respect to the logits; zero in rows from `rows` on
};

// logits: [>= rows, K] float32 or float64; labels: [>= rows] int64; weights: one a row. What lies beyond the rows is
// padding; without rows all is zero. targets: [>= rows, K] of the logits' type, or undefined: 1 at the label. With
// label_smoothing s a target t becomes (1 - s) t + s / K.
LossSum SumCrossEntropy(const at::Tensor& logits, const at::Tensor& labels, const std::vector<double>& weights,
                        double label_smoothing = 0, const at::Tensor& targets = {});

}  // namespace ham::trainer
