// Learning rates as pure functions of the position in the run.
#pragma once

#include <cstdint>

#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// Rate for the iteration that comes after `iteration` finished ones (0-based), in 1-based epoch `epoch` of `epochs`.
//   constant  rate
//   step      rate times gamma ^ (number of milestones <= epoch), or the factor of the last milestone <= epoch
//   cosine    rate * (1 + cos(pi * s)) / 2
//   one-cycle rate * s / warmup_share, and after that share rate * (1 - s) / (1 - warmup_share)
// s is iteration / total_iterations, or, by epoch, epoch / epochs: the last epoch of a cosine then has rate 0, as in
// the published code of HAM.
double LearningRateAt(const OptimizerOptions& options, int64_t iteration, int64_t total_iterations, int epoch,
                      int epochs);

}  // namespace ham::trainer
