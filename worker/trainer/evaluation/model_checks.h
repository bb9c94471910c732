// What the network itself says against its evaluation. EvaluationWarning (proto/ham/v1/evaluation.proto) says what each
// type means; outcome_warnings.h has those that follow from the outcomes. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "proto/evaluation/evaluation_record.h"
#include "worker/trainer/evaluation/block_evaluator.h"

namespace ham::trainer {

// Of `rows` of the inputs, which the network classifies right (CheckedRows()). A function of these alone. `tick` is
// called with each pass. Freezes the weights; LibTorch's exceptions pass through. Takes, an image: 7 forward passes, 2
// gradient passes, up to 42 in the large balls, and those of one run of the first attack (one target, one restart);
// beside AutoAttack of 10,000 images no hundredth.
//
// RANDOMIZED: 5 forward passes, and one in which the images lie in reverse, differ in a prediction, or by more than
// 1e-4 in a row's logits divided by their length (that of AutoAttack's authors).
// DYNAMIC_FORWARD: not randomized, but logits change by as much with the images beside them; or the weights are no
// longer those of `weights_digest` (ParametersDigest() in float32).
// PROBABILITIES: all outputs are in [0, 1], and those of each image sum to 1 to within 1e-5.
// ZERO_GRADIENTS: the gradient of cross entropy or dlr (of margin below 3 classes) with respect to an image is 0 in all
// pixels where apgd starts.
// OUT_OF_RANGE: logits or these gradients are not finite there.
// ROBUST_AT_LARGE_EPSILON: 20 steps of apgd leave more than a tenth of the images at 4 x epsilon, in linf at 32/255 at
// least and 1 at most. Also where epsilon is much smaller than what the network was trained for: then this says nothing
// against it.
// LOSS_STILL_RISING: of the first pgd, apgd or apgd-t, more than 5 % of what the loss rises in all, it rises in the
// last tenth of the steps. 10 % is a steady rise, so at half its mean pace: an attack that has found its maximum is far
// below. The mean, over images that this run does not break, of the largest loss so far; not asked for fewer than 10
// such images.
std::vector<EvaluationWarning> NetworkWarnings(NetworkPasses& passes, const ParameterSet& weights,
                                               const std::string& weights_digest, const EvaluationInputs& inputs,
                                               const std::vector<uint32_t>& rows, const std::function<void()>& tick);

}  // namespace ham::trainer
