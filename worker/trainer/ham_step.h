// One training step of PGD-AT or HAM on the rows of one rank, up to the sums that all ranks share. Source: HAM (arXiv 2308.01823;
// IEEE TIFS 2025); PGD-AT is Madry et al. 2018.
//
//   x0 = start point
//   mining off:  x_adv = K attack steps on all rows; every row is kept
//   mining on:   x_M = M steps on all rows; hard = misclassified at x_M; kept = hard and a random share of the rest
//                x_adv = K - M more steps on the kept rows, from x_M
//   loss = sum of cross entropy at x_adv over kept rows     (divided once, after the all-reduce)
//
// Stateless; safe from any thread.
#pragma once

#include <functional>

#include "absl/status/statusor.h"
#include "worker/trainer/batch.h"
#include "worker/trainer/gradient_reducer.h"
#include "worker/trainer/hard_examples.h"
#include "worker/trainer/models/model.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

struct AttackedBatch {
  Batch kept;          // x is x_adv of the kept rows; may have no row
  at::Tensor x_mined;  // x_M of all rows; undefined where nothing was mined
  Mined mined;         // every row hard and kept where nothing was mined
};

// `start`: x0, as batch.x. `tick` is called after each attack step.
absl::StatusOr<AttackedBatch> AttackAndMine(const TrainSpec& spec, int epoch, const Model& model,
                                            const ParameterSet& weights, const Batch& batch, const at::Tensor& start,
                                            const std::function<void()>& tick);

// Writes the gradient of the summed loss over `kept`, and the statistics of the batch, into `gradients`, and adds loss and
// weight to `sums`. BatchNorm is synchronised over `collective`, of which all ranks make this call; null: each rank has
// its own statistics. Errors are the collective's.
absl::Status ComputeGradients(const Model& model, const ParameterSet& weights, const Batch& kept,
                              Collective* collective, ParameterSet* gradients, StepSums* sums);

// running <- (1 - momentum) running + momentum * that of the batch, for all statistics (PyTorch's momentum, 0.1).
void UpdateStatistics(const ParameterSet& batch, ParameterSet* weights);

// Mining is on in 1-based epoch `epoch`.
bool IsMining(const TrainSpec& spec, int epoch);

// Whether all ranks leave the weights, momentum and averages alone after a step with these global sums.
bool IsSkipped(const TrainSpec& spec, int epoch, const StepSums& global);

}  // namespace ham::trainer
