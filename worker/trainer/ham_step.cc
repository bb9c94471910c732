#include "worker/trainer/ham_step.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/item.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/unbind.h>

#include "worker/trainer/boundary_trace.h"
#include "worker/trainer/device.h"
#include "worker/trainer/global_selection.h"
#include "worker/trainer/ham_loss.h"
#include "worker/trainer/pgd_attack.h"
#include "worker/trainer/rank_balance.h"

namespace ham::trainer {
namespace {

void Enter(const StepContext& context, Phase phase) {
  if (context.profile != nullptr) context.profile->Enter(phase);
}

Ball StartBall(const TrainSpec& spec, int epoch) { return {spec.attack.norm, StageAt(spec.attack, epoch).epsilon}; }

RandomKey StartKey(const TrainSpec& spec, int epoch) {
  return {.seed = spec.seed, .purpose = RandomPurpose::kAttackStart, .epoch = static_cast<uint32_t>(epoch)};
}

// The most rows that a rank has of one global batch.
int64_t RankCapacity(const StepContext& context) {
  const int64_t ranks = context.collective.world_size();
  return (context.spec.batch_size + ranks - 1) / ranks;
}

AttackedBatch KeepAll(const Batch& batch, at::Tensor x_adv) {
  const int64_t rows = batch.rows();
  return {.kept = {std::move(x_adv), batch.labels, batch.ids, batch.targets},
          .weights = std::vector<double>(rows, 1.0),
          .x_mined = {},
          .mined = {std::vector<uint8_t>(rows, 1), std::vector<uint8_t>(rows, 1), rows, rows}};
}

// Logits of iterates, which are looked at later and together: each look at a device's numbers waits for it.
class IterateLogits {
 public:
  // The first `rows` count.
  void Add(const at::Tensor& logits, int64_t rows) { kept_.push_back(logits.narrow(0, 0, rows).clone()); }

  // Those added since the last time, in order, on the host.
  std::vector<at::Tensor> Take() {
    if (kept_.empty()) return {};
    return ToHost(at::stack(std::exchange(kept_, {}))).unbind(0);
  }

 private:
  std::vector<at::Tensor> kept_;
};

// Adds the easy rows of the global batch that were classified most confidently at x_M.
absl::Status RetainConfident(const StepContext& context, const at::Tensor& logits, const Batch& batch, Mined* mined) {
  std::vector<uint8_t> easy(mined->is_hard.size());
  std::transform(mined->is_hard.begin(), mined->is_hard.end(), easy.begin(), [](uint8_t hard) { return hard == 0; });
  auto retained = SelectLargest(TrueClassProbabilities(logits, batch.labels), batch.ids, easy,
                                context.spec.method.retained_easy_share, RankCapacity(context), context.collective);
  if (!retained.ok()) return retained.status();
  for (size_t row = 0; row < easy.size(); ++row) {
    mined->keep[row] |= (*retained)[row];
    mined->kept_count += (*retained)[row];
  }
  return absl::OkStatus();
}

// Of the kept rows of the global batch, those that the attack left most confident leave the loss. logits: at x_adv.
absl::Status DropConfident(const StepContext& context, const at::Tensor& logits, AttackedBatch* attacked,
                           StepCounts* counts) {
  auto dropped = SelectLargest(TrueClassProbabilities(logits, attacked->kept.labels), attacked->kept.ids,
                               std::vector<uint8_t>(attacked->kept.ids.size(), 1), context.spec.method.drop_share,
                               RankCapacity(context), context.collective);
  if (!dropped.ok()) return dropped.status();
  std::vector<uint8_t> stays(dropped->size());
  std::transform(dropped->begin(), dropped->end(), stays.begin(), [](uint8_t drop) { return drop == 0; });
  const std::vector<int64_t> predictions = Predictions(logits);
  for (size_t row = 0; row < stays.size(); ++row) {
    const int64_t label = attacked->kept.labels.const_data_ptr<int64_t>()[row];
    counts->class_right[label] += !stays[row] && predictions[row] == label;
  }
  attacked->kept = SelectRows(attacked->kept, stays);
  size_t next = 0;
  for (size_t row = 0; row < stays.size(); ++row) {
    if (stays[row]) attacked->weights[next++] = attacked->weights[row];
  }
  attacked->weights.resize(next);
  return absl::OkStatus();
}

void CountMined(const Batch& batch, const Mined& mined, const BoundaryTrace& trace, StepCounts* counts) {
  for (size_t row = 0; row < mined.is_hard.size(); ++row) {
    const int64_t label = batch.labels.const_data_ptr<int64_t>()[row];
    counts->class_hard[label] += mined.is_hard[row];
    counts->class_right[label] += !mined.keep[row] && !mined.is_hard[row];
    ++counts->boundary[trace.first_wrong()[row]];
  }
}

void CountTrained(const at::Tensor& logits, const at::Tensor& labels, StepCounts* counts) {
  const std::vector<int64_t> predictions = Predictions(logits);
  const std::vector<double> confidence = TrueClassProbabilities(logits, labels);
  for (size_t row = 0; row < predictions.size(); ++row) {
    const int64_t label = labels.const_data_ptr<int64_t>()[row];
    counts->class_right[label] += predictions[row] == label;
    if (std::isnan(confidence[row])) continue;
    const int bin = std::min(kConfidenceBins - 1, static_cast<int>(confidence[row] * kConfidenceBins));
    ++counts->confidence[label * kConfidenceBins + bin];
  }
}

// The passes through the network under attack, whose running statistics an attack in training mode has moved.
NetworkPasses& PassesAfter(const Ascent& ascent, const StepContext& context, const ParameterSet& weights) {
  if (ascent.training != nullptr) context.passes.Freeze(weights);
  return context.passes;
}

// Logits that decide which rows are hard, behind those of iterates: [1 + iterates] on the host. `probabilities`: they
// are asked for more than their predictions.
std::vector<at::Tensor> MiningLogits(NetworkPasses& passes, const at::Tensor& x, const at::Tensor& labels,
                                     bool probabilities, IterateLogits* iterates) {
  const NetworkPasses::Decision decision =
      probabilities ? NetworkPasses::Decision{passes.Logits(x), {}} : passes.Decide(x, labels);
  iterates->Add(decision.logits, x.size(0));
  std::optional<HostCopy> distance;  // asked for before the logits: it is there when they are
  if (decision.distance.defined()) distance.emplace(decision.distance);
  std::vector<at::Tensor> seen = iterates->Take();
  // Some of their own precision may be on the wrong side: rows so near to a tie are few, but for now and then.
  if (distance && distance->Get().item<double>() < NetworkPasses::kTie) seen.back() = ToHost(passes.Logits(x));
  return seen;
}

// The rest of the attack, from x_M on. ascent: as in the mining phase.
absl::StatusOr<AttackedBatch> AttackKept(const StepContext& context, const ParameterSet& weights,
                                         const AttackStage& stage, Ascent ascent, RowsUnderAttack rows,
                                         StepCounts* counts) {
  const MethodOptions& method = context.spec.method;
  const bool weighted = method.weight_mode != WeightMode::kEqual;
  IterateLogits iterates;
  bool observed = true;  // x_M was
  ascent.observe = [&](const at::Tensor&, const at::Tensor& logits) {
    if (weighted && !observed) iterates.Add(logits, rows.clean.rows());
    observed = false;
  };
  ascent.steps = stage.steps - method.mining_step;
  Enter(context, Phase::kAttack);
  counts->passes[kInputGradientPass] += rows.clean.rows() * ascent.steps;
  auto x_adv = Ascend(context.passes, rows.clean, rows.x, ascent, context.tick);
  if (!x_adv.ok()) return x_adv.status();
  Enter(context, Phase::kMining);
  AttackedBatch out{std::move(rows.clean), {}, {}, {}};
  out.kept.x = *std::move(x_adv);
  std::vector<at::Tensor> seen;
  if (method.drop_share > 0 || (weighted && ascent.steps > 0)) {
    counts->passes[kForwardPass] += out.kept.rows();
    iterates.Add(PassesAfter(ascent, context, weights).Logits(out.kept.x), out.kept.rows());
    seen = iterates.Take();
  }
  if (weighted && ascent.steps > 0) {
    for (const at::Tensor& logits : seen) rows.trace.Observe(logits);
  }
  out.weights = rows.trace.Weights(method.mining_step);
  if (method.drop_share > 0) {
    if (absl::Status status = DropConfident(context, seen.back(), &out, counts); !status.ok()) return status;
  }
  return out;
}

}  // namespace

Collective* SynchronizedRanks(const StepContext& context, const ParameterSet& weights) {
  const bool synchronized = context.spec.batch_norm == BatchNormMode::kSynchronized && weights.statistics_size() > 0 &&
                            context.collective.world_size() > 1;
  return synchronized ? &context.collective : nullptr;
}

at::Tensor NoiseAtStart(const TrainSpec& spec, int epoch, const std::vector<uint32_t>& ids, const ImageShape& image) {
  if (!spec.attack.random_start) return {};
  return StartNoise(ids, image, StartBall(spec, epoch), StartKey(spec, epoch), spec.attack.start_distribution);
}

at::Tensor StartPoint(const TrainSpec& spec, int epoch, const Batch& batch, const at::Tensor& noise) {
  if (!spec.attack.random_start) return batch.x;
  if (noise.defined()) return StartFrom(batch.x, noise);
  return RandomStart(batch, StartBall(spec, epoch), StartKey(spec, epoch), spec.attack.start_distribution);
}

bool IsMining(const TrainSpec& spec, int epoch) {
  return spec.method.name == Method::kHam && epoch >= spec.method.mining_start_epoch;
}

int64_t NeededRows(const TrainSpec& spec, int epoch) { return IsMining(spec, epoch) ? spec.method.minimum_hard : 1; }

bool IsSkipped(int64_t needed_rows, const StepSums& global) { return !global.finite || global.kept_rows < needed_rows; }

absl::StatusOr<AttackedBatch> AttackAndMine(const StepContext& context, ParameterSet* weights, const Batch& batch,
                                            const at::Tensor& start, StepCounts* counts) {
  const TrainSpec& spec = context.spec;
  const MethodOptions& method = spec.method;
  const AttackStage stage = StageAt(spec.attack, context.epoch);
  Enter(context, Phase::kAttack);
  std::optional<ParameterSet> scratch;
  TrainingModeAttack training{SynchronizedRanks(context, *weights), nullptr, weights};
  Ascent ascent{spec.attack.loss, {spec.attack.norm, stage.epsilon}, stage.step_size, stage.steps};
  if (spec.attack.batch_norm == AttackBatchNorm::kTraining && weights->statistics_size() > 0) {
    training.batch = &scratch.emplace(weights->Clone());
    ascent.training = &training;
  } else {
    context.passes.Freeze(*weights);
  }
  for (int64_t row = 0; row < batch.rows(); ++row) ++counts->class_rows[batch.labels.const_data_ptr<int64_t>()[row]];
  const bool mining = IsMining(spec, context.epoch);
  counts->passes[kInputGradientPass] += batch.rows() * (mining ? method.mining_step : stage.steps);
  if (!mining) {
    auto x_adv = Ascend(context.passes, batch, start, ascent, context.tick);
    if (!x_adv.ok()) return x_adv.status();
    for (size_t c = 0; c < counts->class_rows.size(); ++c) counts->class_hard[c] = counts->class_rows[c];
    return KeepAll(batch, *std::move(x_adv));
  }

  BoundaryTrace trace(batch.labels, method.weight_mode);
  IterateLogits iterates;
  ascent.observe = [&](const at::Tensor&, const at::Tensor& logits) { iterates.Add(logits, batch.rows()); };
  ascent.steps = method.mining_step;
  auto x_mined = Ascend(context.passes, batch, start, ascent, context.tick);
  if (!x_mined.ok()) return x_mined.status();
  Enter(context, Phase::kMining);
  counts->passes[kForwardPass] += batch.rows();
  const bool at_random = method.retained_easy == RetainedEasy::kRandom;
  const bool by_confidence = !at_random && method.retained_easy_share > 0;
  const std::vector<at::Tensor> seen =
      MiningLogits(PassesAfter(ascent, context, *weights), *x_mined, batch.labels, by_confidence, &iterates);
  for (const at::Tensor& logits : seen) trace.Observe(logits);
  const at::Tensor& logits = seen.back();
  context.tick();
  auto mined = FindHardExamples(logits, batch.labels, batch.ids, spec.seed, context.epoch,
                                at_random ? method.retained_easy_share : 0);
  if (!mined.ok()) return mined.status();
  if (by_confidence) {
    if (absl::Status status = RetainConfident(context, logits, batch, &*mined); !status.ok()) return status;
  }
  CountMined(batch, *mined, trace, counts);

  trace.Keep(mined->keep);
  RowsUnderAttack kept{SelectRows(batch, mined->keep), SelectRows(*x_mined, mined->keep), std::move(trace)};
  if (method.balance_ranks) {
    absl::Status status = BalanceRows(context.passes.model().classes(), context.collective, &kept);
    if (!status.ok()) return status;
  }
  auto out = AttackKept(context, *weights, stage, ascent, std::move(kept), counts);
  if (!out.ok()) return out.status();
  out->x_mined = *std::move(x_mined);
  out->mined = *std::move(mined);
  return out;
}

absl::Status ComputeGradients(const StepContext& context, const ParameterSet& weights, const AttackedBatch& attacked,
                              ParameterSet* gradients, StepSums* sums) {
  gradients->flat().zero_();
  const Batch& kept = attacked.kept;
  sums->counts.kept_by_rank[context.collective.rank()] += kept.rows();
  sums->counts.passes[kTrainingPass] += kept.rows();
  Collective* const ranks = SynchronizedRanks(context, weights);
  if (kept.rows() == 0 && ranks == nullptr) return absl::OkStatus();
  const Model& model = context.passes.model();
  const Batch padded = kept.rows() > 0 ? PadRows(kept) : Filler(model.image_shape(), weights.options());
  TrainingPass pass{.rows = kept.rows(), .collective = ranks, .statistics = gradients};
  if (!OnHost(weights.flat())) {
    const at::Tensor found = context.passes.TrainOnDevice(
        {padded, kept.rows(), attacked.weights, context.spec.label_smoothing}, weights, &pass, gradients);
    sums->on_device = sums->on_device.defined() ? sums->on_device + found : found.clone();
    for (const double weight : attacked.weights) sums->weight += weight;
    return pass.status;
  }
  const auto loss = [&](const at::Tensor& logits) {
    LossSum sum =
        SumCrossEntropy(logits, padded.labels, attacked.weights, context.spec.label_smoothing, padded.targets);
    sums->loss += sum.loss;
    sums->weight += sum.weight;
    CountTrained(logits.narrow(0, 0, kept.rows()), kept.labels, &sums->counts);
    return std::move(sum.gradient);
  };
  model.WeightGradients(weights, padded.x, loss, &pass, gradients);
  return pass.status;
}

}  // namespace ham::trainer
