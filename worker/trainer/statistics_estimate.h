// BatchNorm statistics of adversarial images, for a network whose running ones describe others: those of HAM describe
// hard rows, those of averaged weights no network at all.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "worker/trainer/data/image_set.h"
#include "worker/trainer/ham_step.h"

namespace ham::trainer {

// Replaces the running statistics of `weights` by the mean, over batches as in training, of those of the images `rows`
// under the training attack of context.epoch, which is made against the network as it came. Nothing else changes. Costs
// the attacks of an epoch. All ranks make this call and end with the same numbers. Errors are the collective's.
absl::Status EstimateStatistics(const StepContext& context, const ImageSet& data, const std::vector<uint32_t>& rows,
                                ParameterSet* weights);

}  // namespace ham::trainer
