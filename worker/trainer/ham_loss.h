// The training loss of HAM: sums over kept rows, to be divided once by the sum of weights over all ranks.
//
// Dividing on each rank first would weight the rows of a rank with few hard rows more (a rank with one loss of 4
// beside one with three of 0 gives 1, not 2). N: rows, K: classes. Stateless; safe from any thread.
#pragma once

#include <ATen/core/Tensor.h>

namespace ham::trainer {

struct LossSum {
  double loss = 0;      // sum of weight * cross entropy
  double weight = 0;    // sum of weights: the number of rows, as published code weights all kept rows alike
  at::Tensor gradient;  // [logits.size(0), K] of `loss` with respect to the logits; zero in rows from `rows` on
};

// logits: [>= rows, K] float32 or float64; labels: [>= rows] int64; rows beyond `rows` are padding. rows = 0: all zero.
LossSum SumCrossEntropy(const at::Tensor& logits, const at::Tensor& labels, int64_t rows);

}  // namespace ham::trainer
