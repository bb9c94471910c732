#include "proto/evaluation/evaluation_progress.h"

#include <algorithm>
#include <limits>

namespace ham {
namespace {

// Of a row that survives, a gradient counted as two more forward passes.
double PassesOf(const RecordedAttack& attack) {
  const double steps = static_cast<double>(attack.steps) * std::max(attack.targets, 1) * attack.restarts;
  if (attack.name == "square") return steps;
  return attack.name == "fab-t" ? 4 * steps : 3 * steps;
}

}  // namespace

AccuracyBounds BoundsOf(const EvaluationOutcomes& outcomes, size_t classes) {
  AccuracyBounds out;
  out.rows_by_class.resize(classes);
  out.clean_by_class.resize(classes);
  out.robust_by_class.resize(classes);
  for (size_t row = 0; row < outcomes.rows(); ++row) {
    const auto label = static_cast<size_t>(outcomes.labels[row]);
    ++out.rows_by_class[label];
    out.clean_by_class[label] += outcomes.CleanRight(row);
    out.robust_by_class[label] += outcomes.Robust(row);
    out.clean += outcomes.CleanRight(row);
    out.robust += outcomes.Robust(row);
  }
  out.clean /= static_cast<double>(outcomes.rows());
  out.robust /= static_cast<double>(outcomes.rows());
  double worst = std::numeric_limits<double>::infinity();
  for (size_t k = 0; k < classes; ++k) {
    out.clean_by_class[k] /= out.rows_by_class[k];
    out.robust_by_class[k] /= out.rows_by_class[k];
    if (out.rows_by_class[k] == 0 || out.robust_by_class[k] >= worst) continue;
    worst = out.robust_by_class[k];
    out.worst_class = k;
  }
  return out;
}

EvaluationProgress::EvaluationProgress(const std::vector<RecordedAttack>& attacks) : names_{"clean"}, passes_{1} {
  for (const RecordedAttack& attack : attacks) {
    names_.push_back(attack.name);
    passes_.push_back(PassesOf(attack));
  }
  seconds_.resize(names_.size());
  rows_.resize(names_.size());
}

void EvaluationProgress::Add(const FinishedBlock& finished) {
  any_ = true;
  stage_ = finished.block.stage;
  const auto at = static_cast<size_t>(stage_ + 1);
  seconds_[at] += finished.seconds;
  rows_[at] += static_cast<double>(finished.block.rows.size());
}

std::optional<double> EvaluationProgress::PaceOf(size_t stage) const {
  if (rows_[stage] > 0) return seconds_[stage] / rows_[stage];
  double seconds = 0, passes = 0;  // of the attacks so far
  for (size_t i = 1; i < names_.size(); ++i) {
    seconds += seconds_[i];
    passes += rows_[i] * passes_[i];
  }
  if (passes == 0) return std::nullopt;
  return seconds / passes * passes_[stage];
}

std::optional<double> EvaluationProgress::SecondsLeft(const EvaluationPlan& plan) const {
  double out = 0;
  for (size_t i = 1; i < names_.size(); ++i) {
    const std::optional<double> pace = PaceOf(i);
    if (!pace) return std::nullopt;
    out += *pace * static_cast<double>(plan.Left(static_cast<int32_t>(i) - 1));
  }
  return out;
}

std::optional<double> EvaluationProgress::SecondsOf(const WorkBlock& block) const {
  const std::optional<double> pace = PaceOf(static_cast<size_t>(block.stage + 1));
  if (!pace) return std::nullopt;
  return *pace * static_cast<double>(block.rows.size());
}

}  // namespace ham
