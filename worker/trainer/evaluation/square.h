// Square Attack (Andriushchenko et al. 2020): a random search that changes a square of the image at a time, without
// gradients. What it draws for a row is a function of the row's key and of the iteration.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/trainer/evaluation/attack_run.h"

namespace ham::trainer {

// Of the square that iteration `iteration`, from 0, changes. It shrinks as the authors' code has it for 10,000
// iterations, however many there are.
int64_t SquareSide(Norm norm, int iteration, int64_t height, int64_t width);

class Square : public AttackRun {
 public:
  // Images of at most 32 channels. rows.key.purpose is ignored.
  Square(NetworkPasses& passes, const AttackedRows& rows, int steps);

  // Start and steps.
  int iterations() const override { return steps_ + 1; }
  Points Next() override;
  void Keep(const std::vector<uint8_t>& keep) override;

 private:
  void Aim();
  at::Tensor Start() const;
  at::Tensor Candidate();
  at::Tensor CandidateOnDevice();
  // Makes those better than the best so far, or wrong, the best. values: [N] what is made larger.
  void Accept(const at::Tensor& candidates, const at::Tensor& values);
  // What iterations from `first` on draw, for the device: [N, iterations, numbers].
  at::Tensor Plan(int first) const;

  NetworkPasses& passes_;
  AttackedRows rows_;
  const int steps_;
  int done_ = 0;  // points that Next() has returned
  at::Tensor best_, best_value_;
  std::vector<double> bump_;  // l2: of the present side
  // On a device.
  at::Tensor low_, high_;  // linf: what a pixel may be
  at::Tensor plan_;
  at::Tensor bump_there_;
  int planned_ = 0;  // its first iteration
};

}  // namespace ham::trainer
