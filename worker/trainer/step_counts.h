// What one training step counts of its rows, over the rows of one rank or of all. Plain data.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "worker/trainer/models/model_flops.h"

namespace ham::trainer {

inline constexpr int kConfidenceBins = 10;

// K: classes, M: mining_step. Sizes are fixed at construction, so that sums can be taken element by element.
struct StepCounts {
  StepCounts() = default;
  StepCounts(int64_t classes, int mining_step, int world_size)
      : class_rows(classes),
        class_hard(classes),
        class_right(classes),
        boundary(mining_step + 2),
        confidence(classes * kConfidenceBins),
        kept_by_rank(world_size) {}

  std::vector<int64_t> class_rows;   // [K] rows of the batch
  std::vector<int64_t> class_hard;   // [K] of these, misclassified at x_M; all where nothing is mined
  std::vector<int64_t> class_right;  // [K] of these, right under attack: at x_adv, or at x_M where they left there
  // [M + 2] rows first misclassified at x_k, k = 0 ... M; last: never up to there. Zero where nothing is mined.
  std::vector<int64_t> boundary;
  // [K * 10] kept rows by class and by the probability of the true class at x_adv, in training mode: bins of 0.1.
  std::vector<int64_t> confidence;
  std::vector<int64_t> kept_by_rank;  // [world size]
  // [kPasses] rows that took each, without padding; a row counts each time.
  std::vector<int64_t> passes = std::vector<int64_t>(kPasses);

  static constexpr std::array Members = {&StepCounts::class_rows, &StepCounts::class_hard, &StepCounts::class_right,
                                         &StepCounts::boundary,   &StepCounts::confidence, &StepCounts::kept_by_rank,
                                         &StepCounts::passes};

  int64_t size() const { return OffsetOf(nullptr); }

  // Numbers before those of `wanted` where all lie one after the other; nullptr: all.
  int64_t OffsetOf(std::vector<int64_t> StepCounts::*wanted) const {
    int64_t out = 0;
    for (const auto member : Members) {
      if (member == wanted) break;
      out += static_cast<int64_t>((this->*member).size());
    }
    return out;
  }

  // An empty one takes the other's sizes.
  void Add(const StepCounts& other) {
    for (const auto member : Members) {
      std::vector<int64_t>& own = this->*member;
      own.resize((other.*member).size());
      for (size_t i = 0; i < own.size(); ++i) own[i] += (other.*member)[i];
    }
  }
};

}  // namespace ham::trainer
