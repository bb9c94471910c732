// How each row of a batch came to cross the decision boundary during an attack, and what its loss weighs for that.
//
// p_k: softmax of the logits at iterate x_k, in float64. x_0 is the start point, x_M the iterate after which easy rows
// leave.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// One thread. Costs a softmax a row and step where weights are asked for, else a comparison.
class BoundaryTrace {
 public:
  // labels: [N] int64 in [0, K).
  BoundaryTrace(const at::Tensor& labels, WeightMode mode);

  // Logits of x_0, x_1, ... in order; [>= N, K], the first N count.
  void Observe(const at::Tensor& logits);

  // Only these rows are observed from here on. keep: one byte a row.
  void Keep(const std::vector<uint8_t>& keep);

  // A row's state, of StateSize numbers, for a trace of the same mode on another rank, which goes on with it as its
  // last row. A trace without rows takes over how many iterates were observed. classes: K.
  size_t StateSize(int64_t classes) const;
  std::vector<double> State(size_t row) const;
  void Append(const std::vector<double>& state);

  // First iterate at which each row was misclassified; the number of iterates observed where it never was.
  const std::vector<int>& first_wrong() const { return first_wrong_; }

  // Weight of each row's loss, to be divided by the sum of all over all ranks (so that only ratios count). All modes
  // but kEqual are inferred from the papers, not published: experimental.
  //   none         1 (kEqual)
  //   first_cross  0.1 + |p_f - p_K|_2, f: the first misclassified iterate, K: the last; 0.1 for a row that never was
  //   delta_max    0.1 + max over k of |p_k - p_(k-1)|_1
  //   kappa        (tanh(-1 + 5 (M/2 - kappa) / (M/2)) + 1) / 2, kappa: how many of x_0 ... x_(M-1) were classified
  //   right.
  //                As GAIRAT, but centred on M/2: hard rows have kappa <= M
  std::vector<double> Weights(int mining_step) const;

 private:
  bool NeedsProbabilities() const { return mode_ == WeightMode::kFirstCross || mode_ == WeightMode::kDeltaMax; }

  std::vector<int64_t> labels_;
  const WeightMode mode_;
  int observed_ = 0;
  std::vector<int> first_wrong_;
  std::vector<int> right_;                           // iterates classified right
  std::vector<std::vector<double>> at_first_wrong_;  // p there; empty while right
  std::vector<std::vector<double>> last_;            // p of the newest iterate
  std::vector<double> largest_change_;
};

}  // namespace ham::trainer
