#include "worker/trainer/trainer.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include <ATen/ops/where.h>
#include <c10/util/Exception.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "worker/trainer/class_bias.h"
#include "worker/trainer/class_bias_fit.h"
#include "worker/trainer/counter_rng.h"
#include "worker/trainer/data/augmentation.h"
#include "worker/trainer/data/validation_split.h"
#include "worker/trainer/device.h"
#include "worker/trainer/exception_status.h"
#include "worker/trainer/fitting_rows.h"
#include "worker/trainer/ham_step.h"
#include "worker/trainer/models/batch_norm.h"
#include "worker/trainer/precision.h"
#include "worker/trainer/schedule.h"
#include "worker/trainer/statistics_estimate.h"
#include "worker/trainer/stopwatch.h"

namespace ham::trainer {
namespace {

constexpr int kMostNonFiniteInARow = 50;
constexpr double kSecondsBetweenPoints = 2;

// The first `wanted` of `rows`, 0 = all.
absl::StatusOr<std::vector<uint32_t>> FirstRows(const char* field, int64_t wanted, const DataOptions& options,
                                                std::vector<uint32_t> rows, bool held_out) {
  const auto present = static_cast<int64_t>(rows.size());
  if (wanted > present) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s is %d, but the data set %s has %d rows there%s; allowed is 0 (all) to %d", field, wanted,
                        options.name, present, held_out ? " that are not held out" : "", present));
  }
  if (wanted > 0) rows.resize(wanted);
  return rows;
}

std::vector<uint32_t> AllRows(int64_t count) {
  std::vector<uint32_t> rows(count);
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

// Rows right under the attack of training / rows.
double RobustShare(const StepCounts& counts) {
  return static_cast<double>(Total(counts.class_right)) /
         static_cast<double>(std::max<int64_t>(1, Total(counts.class_rows)));
}

// Of a batch; the last part may have fewer.
int64_t PartRows(const TrainSpec& spec) {
  return (spec.batch_size + spec.accumulation_steps - 1) / spec.accumulation_steps;
}

// What the attack of an epoch's training, and so its robust accuracy, depends on.
std::string MeasureOf(const TrainSpec& spec, int epoch) {
  return absl::StrCat(IsMining(spec, epoch) ? "mining, stage from " : "stage from ",
                      StageAt(spec.attack, epoch).start_epoch);
}

ParameterSet FirstWeights(const TrainSpec& spec, const Model& model, at::Device device) {
  ParameterSet weights(model.parameters(), at::TensorOptions(TypesOf(spec.precision).weights).device(device));
  weights.Initialize(spec.seed);
  return weights;
}

// Noise for the host's loops is made where it is added: that is one pass over memory less.
DeviceInputs DeviceInputsOf(const TrainSpec& spec, const ImageShape& image, const at::Tensor& weights) {
  if (OnHost(weights)) return {};
  return {.noise = [&spec, image](int epoch,
                                  const std::vector<uint32_t>& ids) { return NoiseAtStart(spec, epoch, ids, image); },
          .pinned = weights.is_cuda()};
}

}  // namespace

absl::StatusOr<RunData> ChooseRows(const DataOptions& options, const ImageSet& train, const ImageSet& test) {
  ValidationSplit split = SplitForValidation(train.labels.first(train.own_rows()), options.validation_share);
  auto train_rows = FirstRows("train.data.train_rows", options.train_rows, options, std::move(split.train),
                              !split.validation.empty());
  if (!train_rows.ok()) return train_rows.status();
  auto test_rows = FirstRows("train.data.test_rows", options.test_rows, options, AllRows(test.rows), false);
  if (!test_rows.ok()) return test_rows.status();
  const ExtraRows extra{static_cast<uint32_t>(train.own_rows()), train.extra_rows, options.extra_share};
  return RunData{train, test, *std::move(train_rows), std::move(split.validation), *std::move(test_rows), extra};
}

Trainer::Trainer(const TrainSpec& spec, const Model& model, const RunData& data, Collective& collective,
                 RunObserver& observer, Accelerator* accelerator)
    : spec_(spec),
      model_(model),
      data_(data),
      collective_(collective),
      observer_(observer),
      epoch_iterations_((static_cast<int64_t>(data.train_rows.size()) + spec.batch_size - 1) / spec.batch_size),
      total_iterations_(spec.epochs * epoch_iterations_),
      weights_(FirstWeights(spec, model, DeviceOf(accelerator))),
      passes_(model, weights_, accelerator),
      average_(spec, weights_),
      pipeline_(data.train, data.train_rows, spec.data.augmentation, spec.seed,
                DeviceInputsOf(spec, model.image_shape(), weights_.flat())),
      class_bias_(spec.class_bias.running_rate, spec.class_bias.running_decay, model.classes()),
      optimizer_(spec.optimizer, model.parameters(), weights_.options()),
      reducer_(model.parameters(), StepCounts(model.classes(), spec.method.mining_step, collective.world_size()),
               weights_.options()),
      profile_(NewClockOf(accelerator)),
      scale_{.model = model.flops()} {}

void Trainer::StartFrom(const ParameterSet& weights) {
  weights_.flat().copy_(weights.flat());
  average_.StartFrom(weights_);
}

absl::Status Trainer::Check() const {
  const ImageShape& image = model_.image_shape();
  if (absl::Status status = CheckAugmentation(spec_.data.augmentation, image.height, image.width); !status.ok()) {
    return status;
  }
  if (spec_.attack.loss == AttackLoss::kDlr && model_.classes() < 3) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "train.attack.loss is \"dlr\", which needs 3 classes; these are %d; use \"margin\"", model_.classes()));
  }
  for (const auto& [name, suites] :
       {std::pair("suites", &spec_.evaluation.suites), std::pair("final_suites", &spec_.evaluation.final_suites)}) {
    for (size_t s = 0; s < suites->size(); ++s) {
      const std::string field = absl::StrCat("train.evaluation.", name, "[", s, "].attacks");
      if (auto status = CheckAttacks(field, (*suites)[s].attacks, model_.classes()); !status.ok()) return status;
    }
  }
  if (spec_.attack.batch_norm == AttackBatchNorm::kTraining && spec_.batch_norm == BatchNormMode::kLocal &&
      collective_.world_size() > 1) {
    return absl::InvalidArgumentError(
        "train.attack.batch_norm is \"training\", which over several ranks needs train.batch_norm \"synchronized\": "
        "the ranks' running statistics would part");
  }
  if (spec_.batch_size < collective_.world_size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("train.batch_size is %d, fewer than the %d ranks; allowed is at least one row a rank",
                        spec_.batch_size, collective_.world_size()));
  }
  const int64_t extra_rows = ExtraRowsOf(spec_.data.extra_share, spec_.batch_size);
  if (extra_rows > data_.extra.count) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "train.data.extra_share is %g: %d rows of each batch, but train.data.extra has %d rows; lower the share or "
        "train.batch_size",
        spec_.data.extra_share, extra_rows, data_.extra.count));
  }
  return absl::OkStatus();
}

void Trainer::NoteInexact(const std::vector<std::string>& reasons) {
  std::vector<std::string>& noted = totals_.inexact_because;
  for (const std::string& reason : reasons) {
    if (std::find(noted.begin(), noted.end(), reason) == noted.end()) noted.push_back(reason);
  }
}

StepContext Trainer::ContextOf(int epoch) {
  const auto tick = [this] {
    profile_.EndPart();
    tick_error_.Update(Tick());
  };
  return {spec_, epoch, passes_, collective_, tick, &profile_};
}

std::vector<uint32_t> Trainer::OrderOf(int epoch) const {
  return EpochOrder(spec_.seed, epoch, data_.train_rows, data_.extra, spec_.batch_size);
}

std::vector<uint32_t> Trainer::RowsOf(const std::vector<uint32_t>& order, int64_t position, int part) const {
  const int64_t begin = part * PartRows(spec_);
  const int64_t size = std::clamp<int64_t>(spec_.batch_size - begin, 0, PartRows(spec_));
  return RankRows(order, position + begin, size, collective_.rank(), collective_.world_size());
}

absl::Status Trainer::StepPart(int epoch, const std::vector<uint32_t>& order, int64_t position, int part,
                               ParameterSet* attacked_weights, StepSums* local, StepReport* report) {
  profile_.Enter(Phase::kData);
  InputPipeline::Inputs inputs = pipeline_.Take(epoch, RowsOf(order, position, part));
  const Batch batch = Converted(std::move(inputs.batch), weights_.options());
  if (part + 1 < spec_.accumulation_steps) {
    pipeline_.Prepare(epoch, RowsOf(order, position, part + 1));
  } else if (const int64_t next = position + spec_.batch_size; next < static_cast<int64_t>(order.size())) {
    pipeline_.Prepare(epoch, RowsOf(order, next, 0));
  }
  const StepContext context = ContextOf(epoch);
  profile_.Enter(Phase::kStart);
  auto attacked =
      AttackAndMine(context, attacked_weights, batch, StartPoint(spec_, epoch, batch, inputs.noise), &local->counts);
  if (!attacked.ok()) return attacked.status();
  local->rows += batch.rows();
  local->hard_rows += attacked->mined.hard_count;
  local->kept_rows += attacked->kept.rows();
  profile_.Enter(Phase::kTrain);
  absl::Status status = ComputeGradients(context, weights_, *attacked, &reducer_.gradients(), local);
  if (!status.ok()) return status;
  if (spec_.accumulation_steps > 1) reducer_.AddPart(attacked->kept.rows());
  report->kept.insert(report->kept.end(), attacked->kept.ids.begin(), attacked->kept.ids.end());
  return absl::OkStatus();
}

absl::StatusOr<StepReport> Trainer::Step(int epoch, const std::vector<uint32_t>& order, int64_t position) {
  std::string what;
  try {
    return TryStep(epoch, order, position);
  } catch (const c10::OutOfMemoryError& error) {
    what = WhatDidNotFit(error);
  }
  const auto rows = static_cast<int64_t>(RowsOf(order, position, 0).size());
  return TooManyRows(spec_, collective_.world_size(), rows, what, [&](int64_t fewer) {
    passes_.ForgetRows();
    EmptyCache(weights_.flat().device());
    RehearsePart(spec_, epoch, passes_, &weights_, &reducer_.gradients(), fewer);
  });
}

// The algorithm box. Everything before Reduce is of this rank's rows, everything after is equal on all ranks.
absl::StatusOr<StepReport> Trainer::TryStep(int epoch, const std::vector<uint32_t>& order, int64_t position) {
  const TuningScope tuning(true);  // steps are many, and of few sizes
  StepReport report;
  profile_.Enter(Phase::kData);
  ParameterSet attacked_weights = spec_.attack.weights == AttackWeights::kAverage ? average_.Or(weights_) : weights_;
  const at::Tensor before = attacked_weights.statistics().clone();  // which an attack in training mode moves
  StepSums local{.counts = reducer_.NewCounts()};
  const int64_t rows = std::min(spec_.batch_size, static_cast<int64_t>(order.size()) - position);
  for (int part = 0; part * PartRows(spec_) < rows; ++part) {
    absl::Status status = StepPart(epoch, order, position, part, &attacked_weights, &local, &report);
    if (!status.ok()) return status;
  }
  SettleUpdate();  // mining, if any, has waited for it
  profile_.Enter(Phase::kAllReduce);
  auto global = reducer_.Reduce(local, collective_);
  if (!global.ok()) return global.status();
  profile_.Enter(Phase::kUpdate);

  report.learning_rate = LearningRateAt(spec_.optimizer, position_.iteration, total_iterations_, epoch, spec_.epochs);
  report.iteration = ++position_.iteration;
  report.needed_rows = NeededRows(spec_, epoch);
  report.global = std::make_shared<GlobalSums>(*std::move(global));
  if (!OnHost(weights_.flat()) && spec_.optimizer.gradient_clip_norm == 0 && spec_.class_bias.running_rate == 0) {
    UpdateAhead(report, attacked_weights, before);
  } else if (report.skipped()) {
    attacked_weights.statistics().copy_(before);
  } else {
    const StepCounts& counts = report.sums().counts;
    Update(report.sums().gradient_norm, report.learning_rate);
    if (spec_.class_bias.running_rate > 0) class_bias_.Update(counts.class_rows, counts.class_right, &weights_);
    average_.AfterUpdate(weights_);
  }
  profile_.Leave();
  if (!tick_error_.ok()) return tick_error_;
  return report;
}

void Trainer::Update(double gradient_norm, double learning_rate) {
  optimizer_.Update(reducer_.gradients(), gradient_norm, learning_rate, &weights_);
  UpdateStatistics(reducer_.gradients(), &weights_);
}

void Trainer::UpdateAhead(const StepReport& report, const ParameterSet& attacked_weights,
                          const at::Tensor& statistics_before) {
  std::vector<at::Tensor> state = optimizer_.state();
  state.push_back(weights_.flat());
  if (average_.state().defined()) state.push_back(average_.state());
  std::vector<at::Tensor> before;
  for (const at::Tensor& tensor : state) before.push_back(tensor.clone());
  Update(/*gradient_norm=*/0, report.learning_rate);
  average_.AfterUpdate(weights_);
  const at::Tensor counts = report.global->Counts(report.needed_rows);
  const auto keep_if_it_counts = [&](at::Tensor now, const at::Tensor& then) {
    now.copy_(at::where(counts, now, then));
  };
  for (size_t i = 0; i < state.size(); ++i) keep_if_it_counts(state[i], before[i]);
  keep_if_it_counts(attacked_weights.statistics(), statistics_before);
  ahead_ = report;
}

void Trainer::SettleUpdate() {
  if (ahead_ && ahead_->skipped()) optimizer_.Uncount();
  ahead_.reset();
}

absl::Status Trainer::Run() {
  // The allocator keeps what this copy took: the first save finds it there, as later ones do.
  if (IsFirst()) static_cast<void>(MakeCheckpoint());
  if (epochs_done_ > 0 && epoch_position_ == 0) {  // the attempt before may have died in this evaluation
    if (absl::Status status = EvaluateIfDue(); !status.ok()) return status;
  }
  while (epochs_done_ < spec_.epochs) {
    if (absl::Status status = TrainEpoch(epochs_done_ + 1); !status.ok()) return status;
    ++epochs_done_;
    epoch_position_ = 0;
    average_.AfterEpoch(epochs_done_, weights_);
    if (epochs_done_ == spec_.epochs) {
      if (absl::Status status = FinishWeights(); !status.ok()) return status;
    }
    if (absl::Status status = SaveIfConverging(); !status.ok()) return status;
    if (absl::Status status = EvaluateIfDue(); !status.ok()) return status;
  }
  return Emit("summary", RunSummaryJson(totals_, scale_, position_.iteration));
}

absl::Status Trainer::TrainEpoch(int epoch) {
  position_.epoch = epoch;
  position_.phase = stepped_ ? "train" : "first_step";
  if (absl::Status status = Tick(); !status.ok()) return status;
  const std::vector<uint32_t> order = OrderOf(epoch);
  const auto rows = static_cast<int64_t>(order.size());
  TrainWindow window;
  Stopwatch since_point;
  double learning_rate = LearningRateAt(spec_.optimizer, std::max<int64_t>(0, position_.iteration - 1),
                                        total_iterations_, epoch, spec_.epochs);
  std::optional<StepReport> last;  // not looked at: a device is still at it while the host asks for the next
  const auto look = [&] {
    if (!last) return;
    learning_rate = last->learning_rate;
    Account(*std::exchange(last, std::nullopt), &window);
  };
  while (epoch_position_ < rows) {
    auto step = Step(epoch, order, epoch_position_);
    if (!step.ok()) return step.status();
    stepped_ = true;
    position_.phase = "train";
    if (absl::Status status = Tick(); !status.ok()) return status;
    epoch_position_ = std::min(rows, epoch_position_ + spec_.batch_size);
    look();
    last = *std::move(step);
    if (last->global->Known()) look();
    if (!diverged_.ok()) return diverged_;  // here only: ranks look at different times, but all end at the same step
    if (epoch_position_ == rows) break;
    if (since_point.Elapsed() >= kSecondsBetweenPoints) {
      look();
      TakeSeconds(&window);
      if (absl::Status status = Emit("train", TrainMetricsJson(window, scale_, learning_rate, total_iterations_, false,
                                                               IsMining(spec_, epoch)));
          !status.ok()) {
        return status;
      }
      window = {};
      since_point.Lap();
    }
    const int64_t every = spec_.checkpoint.every_iterations;
    if (every > 0 && position_.iteration % every == 0) {
      look();
      TakeSeconds(&window);
      if (absl::Status status = SaveIfConverging(); !status.ok()) return status;
      position_.phase = "train";
    }
  }
  look();
  if (!diverged_.ok()) return diverged_;
  TakeSeconds(&window);
  const bool mining = IsMining(spec_, epoch);
  train_robust_ = RobustShare(epoch_.sums.counts);
  totals_.attack_seconds += epoch_.seconds.Attack();
  totals_.train_seconds += epoch_.seconds.Train();
  totals_.step_seconds += epoch_.seconds.Step();
  totals_.model_flops += scale_.model.OfAll(epoch_.sums.counts.passes);
  if (mining) {
    totals_.mined_rows += epoch_.sums.rows;
    totals_.hard_rows += epoch_.sums.hard_rows;
  }
  return Emit("train",
              TrainMetricsJson(std::exchange(epoch_, {}), scale_, learning_rate, total_iterations_, true, mining));
}

void Trainer::Account(const StepReport& step, TrainWindow* window) {
  window->Add(step.sums(), step.skipped());
  epoch_.Add(step.sums(), step.skipped());
  non_finite_in_a_row_ = step.sums().finite ? 0 : non_finite_in_a_row_ + 1;
  if (non_finite_in_a_row_ < kMostNonFiniteInARow || !diverged_.ok()) return;
  diverged_ = Diverged(
      absl::StrFormat("the loss or a gradient was not finite in %d iterations in a row, up to iteration %d of epoch %d",
                      kMostNonFiniteInARow, step.iteration, position_.epoch));
}

// Of the steps since the last call; `window` is not the epoch's.
void Trainer::TakeSeconds(TrainWindow* window) {
  const PhaseSeconds taken = profile_.Take();
  window->seconds.Add(taken);
  epoch_.seconds.Add(taken);
}

absl::Status Trainer::Diverged(const std::string& what) const {
  std::string first = FirstNonFinite(weights_);
  if (!first.empty()) {
    first = absl::StrCat("; the first such tensor is the weight ", first);
  } else if (first = FirstNonFinite(reducer_.gradients()); !first.empty()) {
    first = absl::StrCat("; the first such tensor is the gradient of ", first);
  }
  return absl::InvalidArgumentError(absl::StrFormat("training diverged: %s%s; lower train.optimizer.learning_rate (%g)",
                                                    what, first, spec_.optimizer.learning_rate));
}

// Of values that are equal on all ranks, so that all end alike.
absl::Status Trainer::SaveIfConverging() {
  if (epochs_done_ == spec_.epochs && non_finite_in_a_row_ > 0) {
    return Diverged(absl::StrFormat("the loss or a gradient is not finite since iteration %d",
                                    position_.iteration - non_finite_in_a_row_ + 1));
  }
  if (!AllFinite(ToHost(weights_.flat()))) {
    return Diverged(absl::StrFormat("weights are not finite after iteration %d", position_.iteration));
  }
  return Save();
}

// What is fitted to the network at the end of training is part of its last checkpoint.
absl::Status Trainer::FinishWeights() {
  position_.phase = "evaluate";
  ParameterSet trained = average_.Or(weights_);  // shares its numbers
  if (spec_.evaluation.reestimate_batch_norm) {
    if (absl::Status status = EstimateStatistics(ContextOf(epochs_done_), data_.train, data_.train_rows, &trained);
        !status.ok()) {
      return status;
    }
  }
  if (spec_.class_bias.fit_rounds == 0) return tick_error_;
  const AttackStage stage = StageAt(spec_.attack, epochs_done_);
  const AttackSuite suite{"class-bias",
                          stage.epsilon,
                          {{AttackLoss::kMargin, stage.steps, stage.step_size, 1, spec_.attack.random_start}},
                          spec_.attack.norm};
  Stopwatch watch;
  const auto path = FitClassBias(
      spec_.class_bias, passes_, data_.train, data_.validation_rows, suite, spec_.seed, collective_,
      [this] { tick_error_.Update(Tick()); }, &trained);
  if (!path.ok()) return path.status();
  if (!tick_error_.ok()) return tick_error_;
  weights_.class_bias().copy_(trained.class_bias());
  const double seconds = watch.Lap();
  totals_.evaluation_seconds += seconds;
  for (const ClassBiasPoint& point : *path) {
    if (absl::Status status =
            Emit("evaluation", EvaluationMetricsJson(point.counts, {suite}, data_.train.class_names, "validation",
                                                     seconds / path->size(), scale_, false));
        !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

// Periodic evaluations are on held-out training images where there are any: the test images are for the end.
absl::Status Trainer::EvaluateIfDue() {
  const bool final = epochs_done_ == spec_.epochs;
  const int every = spec_.evaluation.every_epochs;
  const bool due = every > 0 && epochs_done_ % every == 0;
  if (due && !data_.validation_rows.empty()) {
    if (absl::Status status = EvaluateOn(data_.train, data_.validation_rows, "validation", false); !status.ok()) {
      return status;
    }
  }
  if (final || (due && data_.validation_rows.empty())) return EvaluateOn(data_.test, data_.test_rows, "test", final);
  return absl::OkStatus();
}

absl::Status Trainer::EvaluateOn(const ImageSet& images, const std::vector<uint32_t>& rows, const char* split,
                                 bool final) {
  position_.phase = "evaluate";
  if (absl::Status status = Tick(); !status.ok()) return status;
  std::vector<AttackSuite> suites = spec_.evaluation.suites;
  if (final) {
    suites.insert(suites.end(), spec_.evaluation.final_suites.begin(), spec_.evaluation.final_suites.end());
  }
  Stopwatch watch;
  ParameterSet network = average_.Or(weights_);
  if (spec_.evaluation.reestimate_batch_norm && epochs_done_ < spec_.epochs) {  // at the end it was done for good
    network = network.Clone();
    if (absl::Status status = EstimateStatistics(ContextOf(epochs_done_), data_.train, data_.train_rows, &network);
        !status.ok()) {
      return status;
    }
  }
  auto counts =
      Evaluate(passes_, network, images, rows, suites, spec_.seed, collective_, [this] { tick_error_.Update(Tick()); });
  if (!counts.ok()) return counts.status();
  if (!tick_error_.ok()) return tick_error_;
  const double seconds = watch.Lap();
  totals_.evaluation_seconds += seconds;
  const nlohmann::json metrics =
      EvaluationMetricsJson(*counts, suites, images.class_names, split, seconds, scale_, final);
  if (absl::Status status = Emit("evaluation", metrics); !status.ok()) return status;
  if (&rows != &data_.validation_rows || suites.empty()) return absl::OkStatus();
  if (absl::Status status = WatchOverfitting(*counts); !status.ok() || !IsFirst()) return status;
  const nlohmann::json& suite = metrics.at("suites").at(0);
  return observer_.OnScores({.epoch = epochs_done_,
                             .robust_accuracy = suite.at("robust_accuracy"),
                             .worst_class_robust_accuracy = suite.at("worst_class_robust_accuracy")});
}

absl::Status Trainer::WatchOverfitting(const EvaluationCounts& validation) {
  const std::optional<std::string> message = overfitting_.Add({.measure = MeasureOf(spec_, epochs_done_),
                                                               .epoch = epochs_done_,
                                                               .train = train_robust_,
                                                               .validation = Total(validation.robust[0]),
                                                               .validation_rows = Total(validation.rows)});
  if (!message) return absl::OkStatus();
  return Emit("notice", {{"reason", "ROBUST_OVERFITTING"}, {"message", *message}});
}

absl::Status Trainer::Save() {
  position_.phase = "save";
  if (absl::Status status = Tick(); !status.ok()) return status;
  if (IsFirst()) {
    if (absl::Status status = observer_.OnCheckpoint(MakeCheckpoint()); !status.ok()) return status;
  }
  return collective_.Barrier();  // which waits where the checkpoint before is still on its way to a slow disk
}

absl::Status Trainer::Tick() { return observer_.OnTick(position_); }

absl::Status Trainer::Emit(const char* kind, nlohmann::json content) {
  if (!IsFirst()) return absl::OkStatus();
  return observer_.OnMetric(
      {{"iteration", position_.iteration}, {"epoch", std::max(1, position_.epoch)}, {kind, std::move(content)}});
}

Checkpoint Trainer::MakeCheckpoint() {
  SettleUpdate();
  Checkpoint out;
  out.info.iteration = position_.iteration;
  out.info.epoch = epochs_done_;
  out.within_epoch = epoch_position_ > 0;
  out.info.world_size = collective_.world_size();
  out.info.threads_per_rank = spec_.threads_per_rank;
  out.parameters = weights_.Export("", &out.model);
  FoldClassBias(OutputBias(model_), &out.model, &out.state);
  optimizer_.Export(&out.state);
  average_.Export(&out.state);
  out.scalars = {{"updates", optimizer_.updates()},
                 {"output_bias", OutputBias(model_)},  // for readers that have no model: the class bias is folded in it
                 {"normalization", NormalizationJson(model_)},  // for exports
                 {"non_finite_in_a_row", non_finite_in_a_row_},
                 {"attack_seconds", totals_.attack_seconds},
                 {"train_seconds", totals_.train_seconds},
                 {"evaluation_seconds", totals_.evaluation_seconds},
                 {"step_seconds", totals_.step_seconds},
                 {"model_flops", totals_.model_flops},
                 {"mined_rows", totals_.mined_rows},
                 {"hard_rows", totals_.hard_rows},
                 {"inexact_because", totals_.inexact_because},
                 {"class_bias_robust", class_bias_.robust()},
                 {"train_robust", train_robust_},
                 {"overfitting", overfitting_.ToJson()},
                 {"epoch_position", epoch_position_},
                 {"epoch_window", WindowJson(epoch_)}};
  return out;
}

absl::Status Trainer::Restore(const Checkpoint& checkpoint) {
  const CheckpointInfo& info = checkpoint.info;
  if (info.iteration < 1 || info.iteration > total_iterations_ || info.epoch != info.iteration / epoch_iterations_) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the checkpoint is of epoch %d, iteration %d, which this spec does not have; resume with the spec it was made "
        "with",
        info.epoch, info.iteration));
  }
  TensorMap model = checkpoint.model;
  UnfoldClassBias(OutputBias(model_), checkpoint.state, &model);
  if (absl::Status status = weights_.Import("", model); !status.ok()) return status;
  if (absl::Status status = average_.Import(checkpoint.state); !status.ok()) return status;
  try {
    const auto& scalars = checkpoint.scalars;
    if (absl::Status status = optimizer_.Import(checkpoint.state, scalars.at("updates").get<int64_t>()); !status.ok()) {
      return status;
    }
    non_finite_in_a_row_ = scalars.at("non_finite_in_a_row").get<int>();
    totals_ = {
        scalars.at("attack_seconds").get<double>(),     scalars.at("train_seconds").get<double>(),
        scalars.at("evaluation_seconds").get<double>(), scalars.at("step_seconds").get<double>(),
        scalars.at("model_flops").get<double>(),        scalars.at("mined_rows").get<int64_t>(),
        scalars.at("hard_rows").get<int64_t>(),         scalars.at("inexact_because").get<std::vector<std::string>>()};
    class_bias_.set_robust(scalars.at("class_bias_robust").get<std::vector<double>>());
    train_robust_ = scalars.at("train_robust").get<double>();
    overfitting_ = OverfittingWatch::FromJson(scalars.at("overfitting"));
    epoch_position_ = scalars.at("epoch_position").get<int64_t>();
    epoch_ = WindowOf(scalars.at("epoch_window"));
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("the checkpoint lacks a number: ", error.what()));
  }
  position_.iteration = info.iteration;
  position_.epoch = info.epoch;
  epochs_done_ = info.epoch;
  if (epoch_position_ != info.iteration % epoch_iterations_ * spec_.batch_size) {
    return absl::InvalidArgumentError("the checkpoint was made between other batches than this spec has");
  }
  return absl::OkStatus();
}

}  // namespace ham::trainer
