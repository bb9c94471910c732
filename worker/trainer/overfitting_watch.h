// Whether robustness on held-out images falls while it still rises on those trained on (robust overfitting; Rice et
// al., 2020).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

namespace ham::trainer {

// One evaluation.
struct RobustPoint {
  // What `train` is measured by: points are compared only where this is equal.
  std::string measure = {};
  int epoch = 0;                // after it
  double train = 0;             // robust accuracy of the epoch's training rows, as they were trained on
  int64_t validation = 0;       // robust rows
  int64_t validation_rows = 0;  // of so many, the same in every evaluation; > 0
};

// Pure but for what it was told. One thread.
class OverfittingWatch {
 public:
  // In two evaluations one after the other `validation` lay more than two standard errors of the difference below its
  // best, while `train` was above what it was then: returns a sentence that says so. Once; again only after a new best.
  // The best is looked for anew where the measure changes.
  std::optional<std::string> Add(const RobustPoint& point);

  // For checkpoints, and back; throws as the JSON library does where that is not one.
  nlohmann::json ToJson() const;
  static OverfittingWatch FromJson(const nlohmann::json& json);

 private:
  RobustPoint best_;  // epoch 0: none yet
  int below_ = 0;     // evaluations in a row
};

}  // namespace ham::trainer
