#include "worker/trainer/evaluation/block_evaluator.h"

#include <utility>

#include "worker/trainer/batch.h"
#include "worker/trainer/device.h"
#include "worker/trainer/evaluation/row_attack.h"
#include "worker/trainer/hard_examples.h"
#include "worker/trainer/stopwatch.h"

namespace ham::trainer {

BlockEvaluator::BlockEvaluator(NetworkPasses& passes, const ParameterSet& weights, const EvaluationInputs& inputs,
                               std::function<void()> tick)
    : passes_(passes), options_(weights.options()), inputs_(inputs), tick_(std::move(tick)) {
  passes_.Freeze(weights);
}

absl::StatusOr<FinishedBlock> BlockEvaluator::Run(const WorkBlock& block) {
  Stopwatch watch;
  const auto before = passes_.passed();
  std::vector<uint32_t> ids;
  for (const uint32_t row : block.rows) ids.push_back(inputs_.ids[row]);
  const Batch batch = Converted(GatherBatch(inputs_.images, ids), options_);
  FinishedBlock out;
  out.block = block;
  if (block.stage == kCleanStage) {
    out.outcomes = RunClean(batch);
  } else {
    const EvaluationAttack& attack = inputs_.attacks[block.stage];
    RowAttack rows(passes_, batch, attack, inputs_.ball, inputs_.seed, static_cast<uint32_t>(block.stage));
    for (int leg = 0; leg < RowAttack::Legs(attack); ++leg) rows.MakeLeg(tick_);
    if (!rows.status().ok()) return rows.status();
    out.outcomes = rows.outcomes();
  }
  out.seconds = watch.Elapsed();
  out.forward_passes = passes_.passed()[kForwardPass] - before[kForwardPass];
  out.gradient_passes = passes_.passed()[kInputGradientPass] - before[kInputGradientPass];
  return out;
}

std::vector<RowOutcome> BlockEvaluator::RunClean(const Batch& batch) const {
  const at::Tensor logits = ToHost(passes_.Logits(batch.x));
  const std::vector<int64_t> predictions = Predictions(logits);
  std::vector<RowOutcome> out;
  for (int64_t row = 0; row < batch.rows(); ++row) {
    const int64_t label = batch.labels.const_data_ptr<int64_t>()[row];
    out.push_back({predictions[row] != label, static_cast<int32_t>(predictions[row]), MarginOf(logits, row, label)});
  }
  tick_();
  return out;
}

std::vector<int32_t> LabelsOf(const EvaluationInputs& inputs) {
  std::vector<int32_t> out;
  for (const uint32_t id : inputs.ids) out.push_back(static_cast<int32_t>(inputs.images.labels[id]));
  return out;
}

}  // namespace ham::trainer
