// Which rows stay in the attack and in the loss after `mining_step` attack steps.
//
// Source: HAM (arXiv 2308.01823; IEEE TIFS 2025). N: rows on this rank, K: classes. Stateless; safe from any thread.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"

namespace ham::trainer {

struct Mined {
  std::vector<uint8_t> is_hard;  // [N] 1: misclassified at x_M
  std::vector<uint8_t> keep;     // [N] 1: hard, or an easy row retained all the same
  int64_t hard_count = 0;
  int64_t kept_count = 0;
};

// Label of the largest logit of each row, the lowest label on a tie; -1, which is no label, for a row with a logit that
// is not finite: what a diverged network says is never right. logits: [N, K] float32 or float64.
std::vector<int64_t> Predictions(const at::Tensor& logits);

// softmax of row `row` of logits [N, K] float32 or float64, in float64: [K].
std::vector<double> Probabilities(const at::Tensor& logits, int64_t row);

// These at the label; NaN where a logit is not finite. labels: [N] int64.
std::vector<double> TrueClassProbabilities(const at::Tensor& logits, const at::Tensor& labels);

// Hard: the rows of `logits` [N, K] (model in evaluation mode, at x_M) whose prediction is not labels [N] int64.
// An easy row is retained when u(seed, epoch, id) < retained_easy_share. No row kept is a normal outcome.
// InvalidArgument if the sizes disagree.
absl::StatusOr<Mined> FindHardExamples(const at::Tensor& logits, const at::Tensor& labels,
                                       const std::vector<uint32_t>& ids, uint64_t seed, int epoch,
                                       double retained_easy_share);

}  // namespace ham::trainer
