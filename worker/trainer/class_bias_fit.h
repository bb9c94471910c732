// The class bias fitted to a network that is trained: what a method does beyond it is more than a shift of class
// priors.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/trainer/collective.h"
#include "worker/trainer/data/image_set.h"
#include "worker/trainer/evaluation/evaluator.h"
#include "worker/trainer/network_passes.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// A point of the path: the bias, and how robust held-out images were with it.
struct ClassBiasPoint {
  at::Tensor bias;  // [K]
  EvaluationCounts counts;
};

// From the bias that `weights` have, options.fit_rounds times: attack images `rows` anew (one suite), raise the bias of
// the class that was least robust by options.fit_step, subtract the mean. Returns the path, one point more than rounds;
// `weights` end with the bias of the best: the largest sum of average and worst-class robust accuracy, the earliest on
// a tie. All ranks make this call. Errors are the collective's.
absl::StatusOr<std::vector<ClassBiasPoint>> FitClassBias(const ClassBiasOptions& options, NetworkPasses& passes,
                                                         const ImageSet& data, const std::vector<uint32_t>& rows,
                                                         const AttackSuite& suite, uint64_t seed,
                                                         Collective& collective, const std::function<void()>& tick,
                                                         ParameterSet* weights);

}  // namespace ham::trainer
