// What `ham-trainer evaluate` says while it works. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "proto/evaluation/evaluation_plan.h"
#include "worker/trainer/evaluation/evaluation_journal.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

class EvaluationProgress {
 public:
  EvaluationProgress(const std::vector<EvaluationAttack>& attacks, std::vector<std::string> class_names);

  // Once the plan knows of it; whoever restores a plan calls it too.
  void Add(const FinishedBlock& finished);

  // One line, or one JSON object: how far it is, upper bounds of robust accuracy in all and by class, which only fall,
  // and an upper bound of the seconds left, by the pace of each attack so far; -1 and no word of it where none has one.
  std::string Text(const EvaluationPlan& plan) const;
  std::string Json(const EvaluationPlan& plan) const;

 private:
  struct Bounds {
    double clean = 0, robust = 0;
    std::vector<double> by_class;  // NaN without rows
    size_t worst = 0;
  };
  Bounds BoundsOf(const EvaluationPlan& plan) const;
  double SecondsLeft(const EvaluationPlan& plan) const;

  std::vector<std::string> names_;  // of stages, from the clean one on
  std::vector<double> passes_;      // of a row that survives a stage, in forward passes
  const std::vector<std::string> class_names_;
  std::vector<double> seconds_, rows_;  // of each stage, so far
  int32_t stage_ = kCleanStage;         // last one added
};

}  // namespace ham::trainer
