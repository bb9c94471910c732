#include "worker/trainer/statistics_estimate.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "worker/trainer/pgd_attack.h"

namespace ham::trainer {

absl::Status EstimateStatistics(const StepContext& context, const ImageSet& data, const std::vector<uint32_t>& rows,
                                ParameterSet* weights) {
  const int64_t count = weights->statistics_size();
  if (count == 0) return absl::OkStatus();
  const AttackStage stage = StageAt(context.spec.attack, context.epoch);
  const AttackOptions& attack = context.spec.attack;
  const Ascent ascent{attack.loss, {attack.norm, stage.epsilon}, stage.step_size, stage.steps};
  Collective& ranks = context.collective;
  Collective* const synchronized = SynchronizedRanks(context, *weights);
  ParameterSet batch_statistics = weights->Clone();
  context.passes.Freeze(*weights);
  at::Tensor sums = at::zeros({count + 1}, weights->options().dtype(at::kDouble));  // last: rows
  for (int64_t position = 0; position < static_cast<int64_t>(rows.size()); position += context.spec.batch_size) {
    const Batch batch = Converted(
        GatherBatch(data, RankRows(rows, position, context.spec.batch_size, ranks.rank(), ranks.world_size())),
        weights->options());
    if (batch.rows() == 0 && synchronized == nullptr) continue;
    const auto x_adv =
        Ascend(context.passes, batch, StartPoint(context.spec, context.epoch, batch), ascent, context.tick);
    if (!x_adv.ok()) return x_adv.status();
    TrainingPass pass{.rows = batch.rows(), .collective = synchronized, .statistics = &batch_statistics};
    const at::Tensor x =
        batch.rows() > 0 ? PadRows(*x_adv) : Filler(context.passes.model().image_shape(), weights->options()).x;
    context.passes.model().InputGradient(
        *weights, x, [](const at::Tensor& logits) { return at::zeros_like(logits); }, &pass);
    if (!pass.status.ok()) return pass.status;
    const auto seen = static_cast<double>(batch.rows());
    sums.narrow(0, 0, count).add_(batch_statistics.statistics(), seen);
    sums.narrow(0, count, 1).add_(seen);
    context.tick();
  }
  if (absl::Status status = ranks.AllReduceSum(sums); !status.ok()) return status;
  weights->statistics().copy_(sums.narrow(0, 0, count) / sums.narrow(0, count, 1).clamp_min(1));
  return absl::OkStatus();
}

}  // namespace ham::trainer
