// Projected gradient ascent (pgd_attack.h) as an attack of an evaluation.
#pragma once

#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/trainer/evaluation/attack_run.h"
#include "worker/trainer/pgd_attack.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

class PgdRun : public AttackRun {
 public:
  // Of `attack`: loss, steps, step_size, random_start and judged_at: with kLast no point but the last one is proposed.
  PgdRun(NetworkPasses& passes, const AttackedRows& rows, const EvaluationAttack& attack);

  // Start and steps.
  int iterations() const override { return attack_.steps + 1; }
  Points Next() override;
  void Keep(const std::vector<uint8_t>& keep) override;

 private:
  void Aim();

  NetworkPasses& passes_;
  AttackedRows rows_;
  const EvaluationAttack attack_;
  int done_ = 0;
  at::Tensor x_, gradient_;
  std::optional<AscentStep> step_;  // around the rows left
};

}  // namespace ham::trainer
