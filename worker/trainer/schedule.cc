#include "worker/trainer/schedule.h"

#include <algorithm>
#include <cmath>

namespace ham::trainer {

double LearningRateAt(const OptimizerOptions& options, int64_t iteration, int64_t total_iterations, int epoch) {
  const double share = static_cast<double>(iteration) / static_cast<double>(total_iterations);
  switch (options.schedule) {
    case Schedule::kConstant:
      return options.learning_rate;
    case Schedule::kStep: {
      int reached = 0;
      for (int milestone : options.milestones) reached += milestone <= epoch;
      return options.learning_rate * std::pow(options.gamma, reached);
    }
    case Schedule::kCosine:
      return options.learning_rate * 0.5 * (1 + std::cos(M_PI * share));
    case Schedule::kOneCycle:
      return options.learning_rate * std::min(share / options.warmup_share, (1 - share) / (1 - options.warmup_share));
  }
  __builtin_unreachable();
}

}  // namespace ham::trainer
