#include "worker/trainer/ham_step.h"

#include <utility>

#include <ATen/ops/lerp.h>
#include <ATen/ops/zeros.h>

#include "worker/trainer/ham_loss.h"
#include "worker/trainer/models/batch_norm.h"
#include "worker/trainer/pgd_attack.h"

namespace ham::trainer {

namespace {

Batch Filler(const Model& model, at::ScalarType type) {
  Batch out{NewImages(kMinimumRows, model.image_shape(), type), at::zeros({kMinimumRows}, at::kLong), {}};
  out.x.zero_();
  return out;
}

}  // namespace

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

absl::Status ComputeGradients(const Model& model, const ParameterSet& weights, const Batch& kept,
                              Collective* collective, ParameterSet* gradients, StepSums* sums) {
  gradients->flat().zero_();
  const bool synchronized = collective != nullptr && collective->world_size() > 1 &&
                            weights.statistics_size() > 0;
  if (kept.rows() == 0 && !synchronized) return absl::OkStatus();
  // A rank without a row still takes part in the sums of the others, with an image of zeros that counts for nothing.
  const Batch padded = kept.rows() > 0 ? Batch{PadRows(kept.x), PadRows(kept.labels), {}} : Filler(model, weights.type());
  TrainingPass pass{.rows = kept.rows(), .collective = synchronized ? collective : nullptr, .statistics = gradients};
  const auto loss = [&](const at::Tensor& logits) {
    LossSum sum = SumCrossEntropy(logits, padded.labels, kept.rows());
    sums->loss += sum.loss;
    sums->weight += sum.weight;
    return std::move(sum.gradient);
  };
  model.WeightGradients(weights, padded.x, loss, &pass, gradients);
  return pass.status;
}

void UpdateStatistics(const ParameterSet& batch, ParameterSet* weights) {
  const int64_t begin = weights->trained_size(), count = weights->statistics_size();
  if (count == 0) return;
  weights->flat().narrow(0, begin, count).lerp_(batch.flat().narrow(0, begin, count), kBatchNormMomentum);
}

}  // namespace ham::trainer
