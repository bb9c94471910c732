#include "worker/trainer/evaluation/progress_text.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <nlohmann/json.hpp>
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "worker/trainer/run_metrics.h"

namespace ham::trainer {
namespace {

// Of a row that survives, a gradient counted as two more forward passes.
double PassesOf(const EvaluationAttack& attack) {
  const double runs = std::max(attack.targets, 1) * attack.restarts;
  switch (attack.name) {
    case AttackName::kSquare:
      return runs * attack.steps;
    case AttackName::kFabTargeted:
      return runs * attack.steps * 4;
    default:
      return runs * attack.steps * 3;
  }
}

}  // namespace

EvaluationProgress::EvaluationProgress(const std::vector<EvaluationAttack>& attacks,
                                       std::vector<std::string> class_names)
    : names_{"clean"}, passes_{1}, class_names_(std::move(class_names)) {
  for (const EvaluationAttack& attack : attacks) {
    names_.push_back(AttackNameOf(attack));
    passes_.push_back(PassesOf(attack));
  }
  seconds_.resize(names_.size());
  rows_.resize(names_.size());
}

void EvaluationProgress::Add(const FinishedBlock& finished) {
  stage_ = finished.block.stage;
  seconds_[stage_ + 1] += finished.seconds;
  rows_[stage_ + 1] += static_cast<double>(finished.block.rows.size());
}

EvaluationProgress::Bounds EvaluationProgress::BoundsOf(const EvaluationPlan& plan) const {
  const EvaluationOutcomes& outcomes = plan.outcomes();
  std::vector<double> robust(class_names_.size()), rows(class_names_.size());
  Bounds out;
  for (size_t row = 0; row < outcomes.rows(); ++row) {
    rows[outcomes.labels[row]] += 1;
    robust[outcomes.labels[row]] += outcomes.Robust(row);
    out.robust += outcomes.Robust(row);
    out.clean += outcomes.CleanRight(row);
  }
  out.robust /= static_cast<double>(outcomes.rows());
  out.clean /= static_cast<double>(outcomes.rows());
  double worst = std::numeric_limits<double>::infinity();
  for (size_t k = 0; k < rows.size(); ++k) {
    out.by_class.push_back(robust[k] / rows[k]);
    if (rows[k] == 0 || out.by_class[k] >= worst) continue;
    worst = out.by_class[k];
    out.worst = k;
  }
  return out;
}

double EvaluationProgress::SecondsLeft(const EvaluationPlan& plan) const {
  double seconds = 0, passes = 0;  // of the attacks so far
  for (size_t i = 1; i < names_.size(); ++i) {
    seconds += seconds_[i];
    passes += rows_[i] * passes_[i];
  }
  if (passes == 0) return -1;
  double out = 0;
  for (size_t i = 1; i < names_.size(); ++i) {
    const double pace = rows_[i] > 0 ? seconds_[i] / rows_[i] : seconds / passes * passes_[i];
    out += pace * static_cast<double>(plan.Left(static_cast<int32_t>(i) - 1));
  }
  return out;
}

std::string EvaluationProgress::Text(const EvaluationPlan& plan) const {
  const Bounds bounds = BoundsOf(plan);
  std::string out =
      absl::StrFormat("%-7s %6d rows left  clean %5.1f %%  robust <= %5.1f %%  worst class <= %5.1f %% (%s)",
                      names_[stage_ + 1], plan.Left(stage_), 100 * bounds.clean, 100 * bounds.robust,
                      100 * bounds.by_class[bounds.worst], class_names_[bounds.worst]);
  if (const double left = SecondsLeft(plan); left > 0) {
    absl::StrAppend(&out, "  at most ", absl::FormatDuration(absl::Ceil(absl::Seconds(left), absl::Seconds(1))),
                    " left");
  }
  return out;
}

std::string EvaluationProgress::Json(const EvaluationPlan& plan) const {
  const Bounds bounds = BoundsOf(plan);
  nlohmann::json by_class = nlohmann::json::array();
  for (const double share : bounds.by_class) by_class.push_back(JsonNumber(share));
  return nlohmann::json({{"stage", names_[stage_ + 1]},
                         {"rows_left", plan.Left(stage_)},
                         {"clean_accuracy_at_most", bounds.clean},
                         {"robust_accuracy_at_most", bounds.robust},
                         {"per_class_robust_accuracy_at_most", by_class},
                         {"worst_class", bounds.worst},
                         {"seconds_left_at_most", SecondsLeft(plan)}})
      .dump();
}

}  // namespace ham::trainer
