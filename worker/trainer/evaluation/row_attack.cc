#include "worker/trainer/evaluation/row_attack.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/full.h>
#include <ATen/ops/lt.h>
#include <ATen/ops/nan_to_num.h>
#include <ATen/ops/where.h>

#include "absl/strings/str_format.h"
#include "worker/trainer/attack_loss.h"
#include "worker/trainer/device.h"
#include "worker/trainer/device_ops.h"
#include "worker/trainer/evaluation/apgd.h"
#include "worker/trainer/evaluation/fab.h"
#include "worker/trainer/evaluation/pgd_run.h"
#include "worker/trainer/evaluation/square.h"
#include "worker/trainer/hard_examples.h"

namespace ham::trainer {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int kIterationsPerLeg = 128;
// A device is asked which rows are broken after so many iterations: asking each time would make it wait for the host.
constexpr int kIterationsPerQuestion = 10;

int RunsOf(const EvaluationAttack& attack) { return std::max(attack.targets, 1) * attack.restarts; }

int LegsOfRun(const EvaluationAttack& attack) { return (attack.steps + kIterationsPerLeg) / kIterationsPerLeg; }

// Largest other logit below the true one, [N]; 0 where a logit is not a number: proposed, but any other point is
// better.
at::Tensor Margins(const at::Tensor& logits, const at::Tensor& one_hot) {
  return at::nan_to_num(AttackLossValues(AttackLoss::kMargin, logits, one_hot), 0, kInfinity, -kInfinity).neg_();
}

}  // namespace

float MarginOf(const at::Tensor& logits, int64_t row, int64_t label) {
  return VisitReal(logits.scalar_type(), [&]<typename T>(T) {
    const T* const of_row = logits.const_data_ptr<T>() + row * logits.size(1);
    T other = -std::numeric_limits<T>::infinity();
    for (int64_t k = 0; k < logits.size(1); ++k) {
      if (!std::isfinite(of_row[k])) return -std::numeric_limits<float>::infinity();
      if (k != label) other = std::max(other, of_row[k]);
    }
    return static_cast<float>(of_row[label] - other);
  });
}

std::unique_ptr<AttackRun> MakeAttackRun(NetworkPasses& passes, const AttackedRows& rows,
                                         const EvaluationAttack& attack, int restart) {
  switch (attack.name) {
    case AttackName::kApgd:
      return std::make_unique<Apgd>(passes, rows, attack.loss, attack.steps, ApgdStart(rows));
    case AttackName::kApgdTargeted:
      return std::make_unique<Apgd>(passes, rows, AttackLoss::kTargetedDlr, attack.steps, ApgdStart(rows));
    case AttackName::kFabTargeted:
      return std::make_unique<FabTargeted>(passes, rows, attack.steps, restart);
    case AttackName::kSquare:
      return std::make_unique<Square>(passes, rows, attack.steps);
    case AttackName::kPgd:
      break;
  }
  return std::make_unique<PgdRun>(passes, rows, attack);
}

RowAttack::RowAttack(NetworkPasses& passes, const Batch& batch, const EvaluationAttack& attack, const Ball& ball,
                     uint64_t seed, uint32_t place)
    : passes_(passes),
      attack_(attack),
      ball_(ball),
      key_{.seed = seed, .purpose = RandomPurpose::kEvaluationStart, .step = place * kRestartsPerAttack},
      left_(batch),
      places_(batch.rows()),
      one_hot_(device::OneHot(batch.labels, passes.model().classes(), batch.x.options())),
      outcomes_(batch.rows()) {
  std::iota(places_.begin(), places_.end(), 0);
  for (size_t row = 0; row < outcomes_.size(); ++row) {
    outcomes_[row] = {false, static_cast<int32_t>(batch.labels.const_data_ptr<int64_t>()[row]),
                      std::numeric_limits<float>::infinity()};
  }
  if (attack_.targets > 0) {
    by_logit_ = at::argsort(ToHost(passes_.Logits(batch.x)), /*stable=*/true, /*dim=*/1, /*descending=*/true);
  }
}

int RowAttack::Legs(const EvaluationAttack& attack) { return RunsOf(attack) * LegsOfRun(attack); }

void RowAttack::MakeLeg(const std::function<void()>& tick) {
  if (left_.rows() == 0 || run_ == RunsOf(attack_)) return;
  if (leg_ == 0) StartRun();
  const int end = std::min(++leg_ * kIterationsPerLeg, current_->iterations());
  while (made_ < end && left_.rows() > 0) {
    Take(current_->Next());
    ++made_;
    tick();
    // Before the last point too: that of PGD takes the place of all before it.
    const bool asks = OnHost(left_.x) || made_ % kIterationsPerQuestion == 0 || made_ + 1 == current_->iterations();
    if (asks && !judged_) Judge(Proposed());
  }
  if (leg_ == LegsOfRun(attack_) || left_.rows() == 0) EndRun();
}

void RowAttack::StartRun() {
  AttackedRows rows{left_, {}, ball_, key_};
  rows.key.step += run_ % attack_.restarts;
  if (attack_.targets > 0) {
    const int target = run_ / attack_.restarts;
    rows.key.epoch = target;
    rows.targets = at::empty({left_.rows()}, at::kLong);
    for (int64_t row = 0; row < left_.rows(); ++row) {
      rows.targets.data_ptr<int64_t>()[row] =
          by_logit_[static_cast<int64_t>(places_[row])].const_data_ptr<int64_t>()[1 + target];
    }
  }
  best_x_ = left_.x.clone();
  best_margin_ = at::full({left_.rows()}, kInfinity, left_.x.options());
  judged_ = true;
  made_ = 0;
  current_ = MakeAttackRun(passes_, rows, attack_, run_ % attack_.restarts);
}

void RowAttack::EndRun() {
  if (!judged_) Judge(std::vector<uint8_t>(left_.rows(), 1));
  current_.reset();
  leg_ = 0;
  ++run_;
}

void RowAttack::Take(const AttackRun::Points& points) {
  if (!points.x.defined()) return;
  if (!points.logits.defined()) {
    best_x_.copy_(points.x);
    return Judge(std::vector<uint8_t>(left_.rows(), 1));
  }
  at::Tensor margins = Margins(points.logits, one_hot_);
  if (points.inside.defined()) margins = at::where(points.inside, margins, kInfinity);
  const at::Tensor lower = at::lt(margins, best_margin_);
  ReplaceRows(lower, points.x, &best_x_);
  ReplaceRows(lower, margins, &best_margin_);
  judged_ = false;
}

// Of the attack's logits, those on the wrong side; of a row that was judged and stood, what the judge found.
std::vector<uint8_t> RowAttack::Proposed() {
  const at::Tensor margins = ToHost(best_margin_);
  std::vector<uint8_t> out(left_.rows());
  VisitReal(margins.scalar_type(), [&]<typename T>(T) {
    for (size_t row = 0; row < out.size(); ++row) out[row] = !(margins.const_data_ptr<T>()[row] > 0);
  });
  return out;
}

void RowAttack::Judge(const std::vector<uint8_t>& asks) {
  if (std::find(asks.begin(), asks.end(), 1) == asks.end()) return;
  const at::Tensor logits = ToHost(passes_.Logits(SelectRows(best_x_, asks)));
  const std::vector<int64_t> predictions = Predictions(logits);
  at::Tensor margins = ToHost(best_margin_).clone();
  std::vector<uint8_t> keep(asks.size(), 1);
  VisitReal(margins.scalar_type(), [&]<typename T>(T) {
    int64_t asked = 0;
    for (size_t row = 0; row < asks.size(); ++row) {
      if (!asks[row]) continue;
      const float margin = MarginOf(logits, asked, LabelOf(row));
      margins.data_ptr<T>()[row] = margin;
      RowOutcome& outcome = outcomes_[places_[row]];
      outcome.prediction = static_cast<int32_t>(predictions[asked++]);
      outcome.broken = outcome.prediction != LabelOf(row);
      outcome.margin = outcome.broken ? margin : std::min(outcome.margin, margin);
      keep[row] = !outcome.broken;
    }
  });
  best_margin_.copy_(margins);
  CheckBall(keep);
  judged_ = std::find(asks.begin(), asks.end(), 0) == asks.end();
  LetGo(keep);
}

void RowAttack::CheckBall(const std::vector<uint8_t>& keep) {
  std::vector<uint8_t> broken(keep.size());
  std::transform(keep.begin(), keep.end(), broken.begin(), std::logical_not());
  if (std::find(broken.begin(), broken.end(), 1) == broken.end()) return;
  const Batch clean = SelectRows(left_, broken);
  const at::Tensor outside = OutsideBall(ball_, clean.x, SelectRows(best_x_, broken));
  const bool* const found =
      std::find(outside.const_data_ptr<bool>(), outside.const_data_ptr<bool>() + clean.rows(), true);
  const int64_t row = found - outside.const_data_ptr<bool>();
  if (row == clean.rows()) return;
  status_.Update(absl::InternalError(
      absl::StrFormat("%s broke image %d at a point outside the ball of radius %g or [0, 1]: its outcomes do not count",
                      AttackNameOf(attack_), clean.ids[row], ball_.radius)));
}

void RowAttack::LetGo(const std::vector<uint8_t>& keep) {
  if (std::find(keep.begin(), keep.end(), 0) == keep.end()) return;
  const bool some = std::find(keep.begin(), keep.end(), 1) != keep.end();
  if (some && current_ != nullptr) current_->Keep(keep);
  left_ = SelectRows(left_, keep);
  std::vector<size_t> places;
  for (size_t row = 0; row < keep.size(); ++row) {
    if (keep[row]) places.push_back(places_[row]);
  }
  places_ = std::move(places);
  for (at::Tensor* const tensor : {&best_x_, &best_margin_, &one_hot_}) *tensor = SelectRows(*tensor, keep);
}

int64_t RowAttack::LabelOf(size_t row) const { return left_.labels.const_data_ptr<int64_t>()[row]; }

}  // namespace ham::trainer
