// Auto-PGD (Croce, Hein 2020): projected gradient ascent with momentum whose step halves where the loss stops rising.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/trainer/evaluation/attack_run.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// clip01(clean + radius * u / |u|), in the ball's norm; u uniform in [-1, 1] (linf) or normal (l2).
at::Tensor ApgdStart(const AttackedRows& rows);

// Where a step leads, P the projection into the ball and then into [0, 1], s = sign(gradient) (linf) or gradient /
// |gradient| (l2):
//   z = P(x + step_size s);  P(x + weight (z - x) + (1 - weight) (x - previous))
// Images [N, C, H, W] of NewImages(); step_size [N] of their type and device. Stateless; safe from any thread.
struct ApgdPoint {
  at::Tensor x;
  at::Tensor previous;  // the x of the step before
  at::Tensor gradient;
};
at::Tensor ApgdStep(const Ball& ball, const at::Tensor& clean, const ApgdPoint& point, const at::Tensor& step_size,
                    double weight);

// Whether the step halves, for rows on their own. As the authors' code has it, which is not always as the paper does.
class ApgdSchedule {
 public:
  // best_loss: at the start, [N].
  ApgdSchedule(int steps, const at::Tensor& best_loss);
  // After a step, with the loss that it led to and the best so far, both [N]. True when it is time to ask Halve():
  // after 22 % of the steps, then ever sooner, at least 6 % apart.
  bool Count(const at::Tensor& loss);
  // [N] bool: rows in which no more than 3/4 of the steps since the last time raised the loss, or, where it did not
  // halve then, the best loss has not risen since.
  at::Tensor Halve(const at::Tensor& best_loss);
  void Keep(const std::vector<uint8_t>& keep);

 private:
  const int shorter_, shortest_;  // by which the time between two shrinks, and where that ends; in steps
  int between_, counted_ = 0;
  at::Tensor last_loss_;
  at::Tensor risen_;  // [N] steps that raised the loss, since the last time
  at::Tensor best_then_;
  at::Tensor halved_then_;  // [N] bool
};

class Apgd : public AttackRun {
 public:
  // loss: cross entropy, dlr, or targeted dlr with rows.targets. From `start`, images in the ball. 1 <= steps.
  Apgd(NetworkPasses& passes, const AttackedRows& rows, AttackLoss loss, int steps, const at::Tensor& start);

  // Start and steps.
  int iterations() const override { return steps_ + 1; }
  Points Next() override;
  void Keep(const std::vector<uint8_t>& keep) override;

 private:
  void Aim() { passes_.Aim(loss_, rows_.batch, rows_.targets); }
  void Step();

  NetworkPasses& passes_;
  AttackedRows rows_;
  const AttackLoss loss_;
  const int steps_;
  int done_ = 0;  // points that Next() has returned
  ApgdPoint point_;
  at::Tensor step_size_;                           // [N]
  at::Tensor best_loss_, best_x_, best_gradient_;  // where the loss was largest
  std::optional<ApgdSchedule> schedule_;           // from the first point on
};

}  // namespace ham::trainer
