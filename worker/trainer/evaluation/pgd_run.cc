#include "worker/trainer/evaluation/pgd_run.h"

#include "worker/trainer/device.h"
#include "worker/trainer/models/parameter_set.h"

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
  if (!OnHost(x_)) projection_.emplace(rows_.ball, attack_.step_size, rows_.batch.x);
}

AttackRun::Points PgdRun::Next() {
  if (done_ > 0) {
    if (projection_) {
      projection_->Step(gradient_, x_);
    } else {
      VisitReal(x_.scalar_type(), [&]<typename T>(T) {
        ProjectedStep(rows_.ball, attack_.step_size, rows_.batch.x.const_data_ptr<T>(), gradient_.const_data_ptr<T>(),
                      x_.size(0), x_.numel() / x_.size(0), x_.data_ptr<T>());
      });
    }
  }
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
