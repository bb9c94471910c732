#include "worker/trainer/evaluation/pool_rank.h"

#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "proto/evaluation/evaluation_plan.h"
#include "proto/evaluation/record_json.h"
#include "worker/trainer/evaluation/block_evaluator.h"
#include "worker/trainer/evaluation/evaluator.h"
#include "worker/trainer/evaluation/model_checks.h"
#include "worker/trainer/evaluation/prepared_evaluation.h"
#include "worker/trainer/network_passes.h"

namespace ham::trainer {
namespace {

using nlohmann::json;

constexpr absl::Duration kIdleTick = absl::Seconds(1);

absl::StatusOr<PreparedEvaluation> PrepareRank(const EvaluationSetup& setup, const EvaluateSpec& spec,
                                               std::unique_ptr<Accelerator> accelerator) {
  auto prepared = PrepareEvaluation(setup, std::move(accelerator));
  if (!prepared.ok()) return prepared;
  if (spec.extra_block && !HasExtraBlock(*prepared->model)) {
    return absl::InvalidArgumentError("evaluate.model.extra_block is true, but the weights have no such block");
  }
  absl::Status status = CheckAttacks("evaluate.suite.attacks", spec.suite.attacks, prepared->model->classes());
  if (!status.ok()) return status;
  return prepared;
}

// Findings, as proto/ham/v1/evaluation.proto has them.
json InputsFinding(EvaluationRecord record, const EvaluationInputs& inputs) {
  record.samples = OutcomesBefore(LabelsOf(inputs));
  return {{"inputs", RecordJson(record).dump()}};
}

json BlockFinding(const FinishedBlock& finished) {
  json predictions = json::array(), margins = json::array();
  for (const RowOutcome& outcome : finished.outcomes) {
    predictions.push_back(outcome.prediction);
    margins.push_back(NumberJson(outcome.margin));
  }
  return {{"block",
           {{"stage", finished.block.stage},
            {"rows", finished.block.rows},
            {"predictions", std::move(predictions)},
            {"margins", std::move(margins)},
            {"seconds", finished.seconds},
            {"forward_passes", finished.forward_passes},
            {"gradient_passes", finished.gradient_passes}}}};
}

json ChecksFinding(const std::vector<EvaluationWarning>& warnings) {
  json list = json::array();
  for (const EvaluationWarning& warning : warnings) {
    list.push_back({{"type", WarningTypeName(warning.type)}, {"message", warning.message}});
  }
  return {{"checks", {{"warnings", std::move(list)}}}};
}

// Works on the blocks of one evaluation.
class PoolWorker {
 public:
  // All that is given outlives it.
  PoolWorker(const PreparedEvaluation& prepared, const EvaluationInputs& inputs, const PoolEvents& events)
      : prepared_(prepared),
        inputs_(inputs),
        events_(events),
        passes_(*prepared.model, *prepared.weights, prepared.accelerator.get()),
        evaluator_(passes_, *prepared.weights, inputs, [this] { Tick(); }) {}

  absl::Status WorkOff(BlockQueue& work) {
    while (true) {
      Tick();
      if (!said_.ok()) return said_;
      const std::optional<WorkBlock> block = work.Take(kIdleTick);
      if (!block) continue;
      const absl::StatusOr<json> finding = FindingOf(*block);
      if (!finding.ok()) return finding.status();
      if (absl::Status status = events_.finding(*finding); !status.ok()) return status;
      ++blocks_;
    }
  }

 private:
  void Tick() {
    if (said_.ok()) said_ = events_.progress(blocks_);
  }

  absl::Status Check(const WorkBlock& block) const {
    const auto attacks = static_cast<int32_t>(inputs_.attacks.size());
    if (block.stage > attacks) {
      return absl::InternalError(
          absl::StrFormat("a block of stage %d came, of an evaluation of %d attacks", block.stage, attacks));
    }
    if (block.rows.empty() && block.stage < attacks) {
      return absl::InternalError(absl::StrFormat("a block of stage %d without images came", block.stage));
    }
    for (size_t i = 0; i < block.rows.size(); ++i) {
      if (block.rows[i] >= inputs_.ids.size() || (i > 0 && block.rows[i] <= block.rows[i - 1])) {
        return absl::InternalError(
            absl::StrFormat("a block of stage %d has image %d at place %d, of %d images in order", block.stage,
                            block.rows[i], i, inputs_.ids.size()));
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<json> FindingOf(const WorkBlock& block) {
    if (absl::Status status = Check(block); !status.ok()) return status;
    if (block.stage == static_cast<int32_t>(inputs_.attacks.size())) {
      return ChecksFinding(NetworkWarnings(passes_, *prepared_.weights, prepared_.weights_digest, inputs_, block.rows,
                                           [this] { Tick(); }));
    }
    const absl::StatusOr<FinishedBlock> finished = evaluator_.Run(block);
    if (!finished.ok()) return finished.status();
    if (absl::Status status = CheckFinite(*finished, inputs_); !status.ok()) return status;
    return BlockFinding(*finished);
  }

  const PreparedEvaluation& prepared_;
  const EvaluationInputs& inputs_;
  const PoolEvents& events_;
  absl::Status said_;  // the first error of progress
  int64_t blocks_ = 0;
  NetworkPasses passes_;
  BlockEvaluator evaluator_;
};

}  // namespace

absl::Status RunPoolRank(const PoolRank& rank, std::unique_ptr<Accelerator> accelerator, BlockQueue& work,
                         const PoolEvents& events) {
  const EvaluateSpec& spec = rank.spec;
  const EvaluationSetup setup{.weights = rank.weights,
                              .model = spec.model,
                              .activation = spec.activation,
                              .data = spec.data,
                              .data_root = rank.data_root,
                              .data_cache = rank.data_cache,
                              .image_size = spec.image_size,
                              .precision = spec.precision,
                              .threads = rank.threads,
                              .tick = events.loading};
  const auto prepared = PrepareRank(setup, spec, std::move(accelerator));
  if (!prepared.ok()) return prepared.status();
  const auto rows = FirstRows("evaluate.data.rows", spec.rows, setup, prepared->images);
  if (!rows.ok()) return rows.status();
  std::vector<uint32_t> ids(*rows);
  std::iota(ids.begin(), ids.end(), 0);
  const EvaluationInputs inputs{
      prepared->images, std::move(ids), spec.suite.attacks, {spec.suite.norm, spec.suite.epsilon}, spec.seed};
  absl::Status status = events.finding(InputsFinding(RecordOf(setup, *prepared, inputs), inputs));
  return status.ok() ? PoolWorker(*prepared, inputs, events).WorkOff(work) : status;
}

}  // namespace ham::trainer
