#include "worker/trainer/fitting_rows.h"

#include <vector>

#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include "absl/strings/str_format.h"
#include "worker/trainer/batch.h"
#include "worker/trainer/ham_step.h"

namespace ham::trainer {
namespace {

// 0: not even the least.
int64_t FittingRows(int64_t rows, const std::function<void(int64_t)>& rehearse) {
  while (rows > kMinimumRows) {
    rows = (rows + 1) / 2;
    try {
      rehearse(rows);
      return rows;
    } catch (const c10::AcceleratorError&) {
      throw;
    } catch (const c10::Error&) {  // not only the allocator's: cuBLAS and cuDNN have errors of their own for this
    }
  }
  return 0;
}

}  // namespace

void RehearsePart(const TrainSpec& asked, int epoch, NetworkPasses& passes, ParameterSet* weights,
                  ParameterSet* gradients, int64_t rows) {
  TrainSpec spec = asked;
  spec.method.name = Method::kPgdAt;  // keeps every row
  spec.attack.steps = 2;
  spec.attack.stages.clear();
  const std::unique_ptr<Collective> alone = MakeLocalCollective();
  const StepContext context{spec, epoch, passes, *alone, [] {}};
  const Model& model = passes.model();
  Batch batch{NewImages(rows, model.image_shape(), weights->options()), at::zeros({rows}, at::kLong),
              std::vector<uint32_t>(rows)};
  batch.x.zero_();
  for (int round = 0; round < 2; ++round) {  // work is recorded its second time
    StepSums sums{.counts = StepCounts(model.classes(), spec.method.mining_step, alone->world_size())};
    // Errors are those of sums over ranks; there is one rank.
    const AttackedBatch attacked = AttackAndMine(context, weights, batch, batch.x.clone(), &sums.counts).value();
    ComputeGradients(context, *weights, attacked, gradients, &sums).IgnoreError();
  }
}

absl::Status TooManyRows(const TrainSpec& spec, int world_size, int64_t rows, const std::string& what,
                         const std::function<void(int64_t)>& rehearse) {
  const int64_t fitting = FittingRows(rows, rehearse);
  if (fitting == 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the GPU has too little memory for this job (%s): not even %d rows at a time fit, so no train.batch_size does; "
        "take a GPU with more memory or a smaller train.model",
        what, kMinimumRows));
  }
  const int64_t of_all_ranks = fitting * world_size;
  return absl::InvalidArgumentError(absl::StrFormat(
      "the GPU has too little memory for %d rows at a time (%s): %d fit; set train.accumulation_steps to %d or "
      "train.batch_size to %d",
      rows, what, fitting, (spec.batch_size + of_all_ranks - 1) / of_all_ranks,
      of_all_ranks * spec.accumulation_steps));
}

}  // namespace ham::trainer
