// The engine's own loops once more, in LibTorch's operations: for tensors on a GPU, where a loop on the host cannot go.
//
// Each is equal to the function that it names up to rounding, and waits for no device. N: rows, K: classes. Stateless;
// safe from any thread.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/trainer/perturbation.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer::device {

// [N, K], 1 at the label and else 0, of these options. labels: [N] int64 on the host.
at::Tensor OneHot(const at::Tensor& labels, int64_t classes, const at::TensorOptions& options);

// ProjectedStep (perturbation.h) around the images of a batch; the tensors it keeps never move.
class Projection {
 public:
  Projection(const Ball& ball, double step_size, const at::Tensor& clean);
  // Around other images, of the same shape.
  void MoveTo(const at::Tensor& clean);
  // x <- the next point.
  void Step(const at::Tensor& gradient, at::Tensor x) const;

 private:
  const Ball ball_;
  const double step_size_;
  at::Tensor clean_;       // l2
  at::Tensor low_, high_;  // linf: what a pixel may be
};

// AttackLossGradient (attack_loss.h), of labels and goals as AttackLossValues has them.
at::Tensor AttackLossGradient(AttackLoss loss, const at::Tensor& logits, const at::Tensor& labels,
                              const at::Tensor& goals = {});

// SumCrossEntropy (ham_loss.h). targets: [>= N, K]; weights: [>= N] of the logits' device, 0 beyond the rows.
struct Loss {
  at::Tensor sum;       // float64, no dimension
  at::Tensor gradient;  // as the logits
};
Loss SumCrossEntropy(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& weights,
                     double label_smoothing);

// What a training pass counts (step_counts.h): class_right, then confidence, one after the other: [11 K] float64.
// logits: [N, K]; labels: [N] int64 and rows, [1] int64, on the logits' device: so many of them count.
at::Tensor CountTrained(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& rows);

// How far each row's label is from a tie with another class, as a share of the range of its logits, [N] of their type:
// 0 where one of them is no number; infinity in rows that do not count. one_hot: [N, K] of the label; rows: [1] int64,
// so many count.
at::Tensor DistanceFromTie(const at::Tensor& logits, const at::Tensor& one_hot, const at::Tensor& rows);

// Whether all numbers are finite: 1 or 0, float64, no dimension.
at::Tensor AllFinite(const at::Tensor& flat);

}  // namespace ham::trainer::device
