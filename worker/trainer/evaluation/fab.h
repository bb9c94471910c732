// FAB, targeted (Croce, Hein 2020): steps to the boundary between two classes, as if the network were linear, and back
// towards the image: it looks for the nearest point that is classified wrong, wherever the ball ends.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/trainer/evaluation/attack_run.h"

namespace ham::trainer {

class FabTargeted : public AttackRun {
 public:
  // With rows.targets. From the images, or, where restart > 0, from clip01(clean + radius / 2 * u / |u|), u uniform in
  // the ball.
  FabTargeted(NetworkPasses& passes, const AttackedRows& rows, int steps, int restart);

  int iterations() const override { return steps_; }
  Points Next() override;
  void Keep(const std::vector<uint8_t>& keep) override;

 private:
  void Aim();

  NetworkPasses& passes_;
  AttackedRows rows_;
  const int steps_;
  at::Tensor x_;       // where the next step begins
  at::Tensor labels_;  // on its device
};

}  // namespace ham::trainer
