// Blocks of an evaluation (evaluation_plan.h), on the network that is evaluated.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/trainer/data/image_set.h"
#include "worker/trainer/evaluation/evaluation_journal.h"
#include "worker/trainer/network_passes.h"
#include "worker/trainer/perturbation.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// What is evaluated: rows `ids` of `images`, by these attacks in this order.
struct EvaluationInputs {
  const ImageSet& images;
  std::vector<uint32_t> ids;
  std::vector<EvaluationAttack> attacks;
  Ball ball;
  uint64_t seed = 0;
};

// One thread.
class BlockEvaluator {
 public:
  // Freezes the weights. All that is given outlives it. `tick` is called after each pass over the rows of a block.
  BlockEvaluator(NetworkPasses& passes, const ParameterSet& weights, const EvaluationInputs& inputs,
                 std::function<void()> tick);

  // Outcomes of the rows, in their order. A row's does not depend, to the last bit, on the block that it comes in (on a
  // device, but for rounding). Errors are RowAttack's.
  absl::StatusOr<FinishedBlock> Run(const WorkBlock& block);

 private:
  std::vector<RowOutcome> RunClean(const Batch& batch) const;

  NetworkPasses& passes_;
  const at::TensorOptions options_;
  const EvaluationInputs& inputs_;
  const std::function<void()> tick_;
};

// Labels of the rows, in order.
std::vector<int32_t> LabelsOf(const EvaluationInputs& inputs);

}  // namespace ham::trainer
