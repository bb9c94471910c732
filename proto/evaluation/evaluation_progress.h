// How far an evaluation is, and what it can still come to. Pure; one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "proto/evaluation/evaluation_plan.h"
#include "proto/evaluation/evaluation_record.h"

namespace ham {

// Accuracies by the outcomes so far: upper bounds, which only fall.
struct AccuracyBounds {
  double clean = 0;
  double robust = 0;
  std::vector<int32_t> rows_by_class;
  std::vector<double> clean_by_class;  // NaN without rows
  std::vector<double> robust_by_class;
  size_t worst_class = 0;  // of smallest robust accuracy; the lowest label on a tie
};
AccuracyBounds BoundsOf(const EvaluationOutcomes& outcomes, size_t classes);

class EvaluationProgress {
 public:
  explicit EvaluationProgress(const std::vector<RecordedAttack>& attacks);

  // Once the plan knows of it; whoever restores a plan calls it too.
  void Add(const FinishedBlock& finished);

  bool any() const { return any_; }  // blocks were added
  // Of the block added last, and its name: "clean", or that of the attack.
  int32_t stage() const { return stage_; }
  const std::string& stage_name() const { return names_[static_cast<size_t>(stage_ + 1)]; }
  // Upper bound of the seconds that one worker needs for the rest, by the pace of each attack so far; nullopt while
  // none has one.
  std::optional<double> SecondsLeft(const EvaluationPlan& plan) const;
  // The same of a block of that stage.
  std::optional<double> SecondsOf(const WorkBlock& block) const;

 private:
  std::optional<double> PaceOf(size_t stage) const;  // seconds a row

  std::vector<std::string> names_;      // of stages, from the clean one on
  std::vector<double> passes_;          // of a row that survives a stage, in forward passes
  std::vector<double> seconds_, rows_;  // of each stage, so far
  int32_t stage_ = kCleanStage;
  bool any_ = false;
};

}  // namespace ham
