// One training step of PGD-AT or HAM on the rows of one rank, up to the sums that all ranks share. Source: HAM (arXiv
// 2308.01823; IEEE TIFS 2025); PGD-AT is Madry et al. 2018.
//
//   x0 = start point
//   mining off:  x_adv = K attack steps on all rows; every row is kept
//   mining on:   x_M = M steps on all rows; hard = misclassified at x_M; kept = hard and a share of the rest
//                x_adv = K - M more steps on the kept rows, from x_M; with balance_ranks, dealt out over ranks anew
//                a share of the kept rows, those with the highest true-class probability at x_adv, is dropped again
//   loss = sum over kept rows of weight * cross entropy at x_adv     (divided once, after the all-reduce)
//
// Shares are of the global batch. One thread, as the passes of a context.
#pragma once

#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/trainer/batch.h"
#include "worker/trainer/collective.h"
#include "worker/trainer/gradient_reducer.h"
#include "worker/trainer/hard_examples.h"
#include "worker/trainer/network_passes.h"
#include "worker/trainer/step_profile.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

struct StepContext {
  const TrainSpec& spec;
  int epoch;              // 1-based
  NetworkPasses& passes;  // AttackAndMine() and what else attacks freeze their weights
  Collective& collective;
  std::function<void()> tick;      // called after each attack step and pass
  StepProfile* profile = nullptr;  // told of each phase it enters; null: nobody asks
};

// Where BatchNorm meets the other ranks; null where it does not.
Collective* SynchronizedRanks(const StepContext& context, const ParameterSet& weights);

// The noise that x0 of the training attack in 1-based `epoch` has at these rows: float32 on the host; undefined where
// the attack starts at the images.
at::Tensor NoiseAtStart(const TrainSpec& spec, int epoch, const std::vector<uint32_t>& ids, const ImageShape& image);

// x0. noise: NoiseAtStart() of these rows, for a batch on a device; undefined: made here if it is needed.
at::Tensor StartPoint(const TrainSpec& spec, int epoch, const Batch& batch, const at::Tensor& noise = {});

struct AttackedBatch {
  Batch kept;                   // x is x_adv of the rows to train on, perhaps of other ranks; may have no row
  std::vector<double> weights;  // of their losses
  at::Tensor x_mined;           // x_M of all rows of `batch`; undefined where nothing was mined
  Mined mined;                  // of these: every row hard and kept where nothing was mined
};

// `start`: x0, as batch.x. `weights`: the attacked network; with attack.batch_norm "training" its running statistics
// move. Adds to counts what it sees. All ranks make this call. Errors are the collective's.
absl::StatusOr<AttackedBatch> AttackAndMine(const StepContext& context, ParameterSet* weights, const Batch& batch,
                                            const at::Tensor& start, StepCounts* counts);

// Writes the gradient of the summed loss over the kept rows, and the BatchNorm statistics of the batch, into
// `gradients`; adds loss and weight to `sums`, and to its counts what it sees. All ranks make this call. Errors are the
// collective's.
absl::Status ComputeGradients(const StepContext& context, const ParameterSet& weights, const AttackedBatch& attacked,
                              ParameterSet* gradients, StepSums* sums);

// Mining is on in 1-based epoch `epoch`.
bool IsMining(const TrainSpec& spec, int epoch);

// Kept rows that a step of the global batch must have, or the weights stay as they are.
int64_t NeededRows(const TrainSpec& spec, int epoch);

// Whether all ranks leave the weights, momentum and averages alone after a step with these global sums.
bool IsSkipped(int64_t needed_rows, const StepSums& global);

}  // namespace ham::trainer
