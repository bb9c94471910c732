#include "worker/trainer/schedule.h"

#include <algorithm>
#include <cmath>

namespace ham::trainer {
namespace {

double StepFactor(const OptimizerOptions& options, int epoch) {
  const auto reached = std::upper_bound(options.milestones.begin(), options.milestones.end(), epoch);
  const auto count = reached - options.milestones.begin();
  if (options.factors.empty()) return std::pow(options.gamma, static_cast<double>(count));
  return count == 0 ? 1 : options.factors[static_cast<size_t>(count) - 1];
}

}  // namespace

double LearningRateAt(const OptimizerOptions& options, int64_t iteration, int64_t total_iterations, int epoch,
                      int epochs) {
  const double share = options.schedule_by == ScheduleBy::kEpoch
                           ? static_cast<double>(epoch) / epochs
                           : static_cast<double>(iteration) / static_cast<double>(total_iterations);
  switch (options.schedule) {
    case Schedule::kConstant:
      return options.learning_rate;
    case Schedule::kStep:
      return options.learning_rate * StepFactor(options, epoch);
    case Schedule::kCosine:
      return options.learning_rate * 0.5 * (1 + std::cos(M_PI * share));
    case Schedule::kOneCycle:
      return options.learning_rate * std::min(share / options.warmup_share, (1 - share) / (1 - options.warmup_share));
  }
  __builtin_unreachable();
}

}  // namespace ham::trainer
