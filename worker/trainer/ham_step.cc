#include "worker/trainer/ham_step.h"

#include <algorithm>
#include <utility>

#include "worker/trainer/ham_loss.h"
#include "worker/trainer/pgd_attack.h"

namespace ham::trainer {

bool IsMining(const TrainSpec& spec, int epoch) {
  return spec.method.name == Method::kHam && epoch >= spec.method.mining_start_epoch;
}

bool IsSkipped(const TrainSpec& spec, int epoch, const StepSums& global) {
  const int64_t needed = IsMining(spec, epoch) ? spec.method.minimum_hard : 1;
  return !global.finite || global.kept_rows < needed;
}

absl::StatusOr<AttackedBatch> AttackAndMine(const TrainSpec& spec, int epoch, const Model& model,
                                            const ParameterSet& weights, const Batch& batch, const at::Tensor& start,
                                            const std::function<void()>& tick) {
  Ascent ascent{AttackLoss::kCrossEntropy, spec.attack.epsilon, spec.attack.step_size, spec.attack.steps};
  const int64_t rows = batch.rows();
  AttackedBatch out;
  if (!IsMining(spec, epoch)) {
    out.kept = {Ascend(model, weights, batch.x, start, batch.labels, ascent, tick), batch.labels, batch.ids};
    out.mined = {std::vector<uint8_t>(rows, 1), std::vector<uint8_t>(rows, 1), rows, rows};
    return out;
  }
  ascent.steps = spec.method.mining_step;
  out.x_mined = Ascend(model, weights, batch.x, start, batch.labels, ascent, tick);
  auto mined = FindHardExamples(PaddedLogits(model, weights, out.x_mined), batch.labels, batch.ids, spec.seed, epoch,
                                spec.method.retained_easy_share);
  if (!mined.ok()) return mined.status();
  out.mined = *std::move(mined);
  tick();
  out.kept = SelectRows(batch, out.mined.keep);
  ascent.steps = spec.attack.steps - spec.method.mining_step;
  out.kept.x =
      Ascend(model, weights, out.kept.x, SelectRows(out.x_mined, out.mined.keep), out.kept.labels, ascent, tick);
  return out;
}

void ComputeGradients(const Model& model, const ParameterSet& weights, const Batch& kept, ParameterSet* gradients,
                      StepSums* sums) {
  if (kept.rows() == 0) {
    std::fill_n(gradients->data(), gradients->size(), 0.0f);
    return;
  }
  const at::Tensor labels = PadRows(kept.labels);
  const auto loss = [&](const at::Tensor& logits) {
    LossSum sum = SumCrossEntropy(logits, labels, kept.rows());
    sums->loss += sum.loss;
    sums->weight += sum.weight;
    return std::move(sum.gradient);
  };
  model.WeightGradients(weights, PadRows(kept.x), loss, gradients);
}

}  // namespace ham::trainer
