// Learning rates as pure functions of the position in the run.
#pragma once

#include <cstdint>

#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// Rate for the iteration that comes after `iteration` finished ones (0-based), in 1-based epoch `epoch`.
//   constant  rate
//   step      rate * gamma ^ (number of milestones <= epoch)
//   cosine    rate * (1 + cos(pi * iteration / total_iterations)) / 2
//   one-cycle rate * s / warmup_share, and after that share rate * (1 - s) / (1 - warmup_share);
//             s = iteration / total_iterations
double LearningRateAt(const OptimizerOptions& options, int64_t iteration, int64_t total_iterations, int epoch);

}  // namespace ham::trainer
