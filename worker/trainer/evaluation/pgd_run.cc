#include "worker/trainer/evaluation/pgd_run.h"

namespace ham::trainer {

PgdRun::PgdRun(NetworkPasses& passes, const AttackedRows& rows, const EvaluationAttack& attack)
    : passes_(passes),
      rows_(rows),
      attack_(attack),
      x_(attack.random_start ? RandomStart(rows.batch, rows.ball, rows.key) : rows.batch.x.clone()) {
  Aim();
}

void PgdRun::Aim() {
  passes_.Aim(attack_.loss, rows_.batch);
  step_.emplace(rows_.ball, attack_.step_size, rows_.batch.x);
}

AttackRun::Points PgdRun::Next() {
  if (done_ > 0) step_->Take(gradient_, x_);
  if (done_++ == attack_.steps) return {x_, {}, {}};
  const NetworkPasses::Point there = passes_.AttackPoint(x_);
  gradient_ = there.gradient;
  if (attack_.judged_at == JudgedAt::kLast) return {};
  return {x_, there.logits, {}};
}

void PgdRun::Keep(const std::vector<uint8_t>& keep) {
  rows_.batch = SelectRows(rows_.batch, keep);
  x_ = SelectRows(x_, keep);
  gradient_ = SelectRows(gradient_, keep);
  Aim();
}

}  // namespace ham::trainer
