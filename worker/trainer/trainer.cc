#include "worker/trainer/trainer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "worker/trainer/class_bias.h"
#include "worker/trainer/counter_rng.h"
#include "worker/trainer/ham_step.h"
#include "worker/trainer/schedule.h"
#include "worker/trainer/stopwatch.h"

namespace ham::trainer {
namespace {

constexpr int kMostNonFiniteInARow = 50;
constexpr double kSecondsBetweenPoints = 2;

// The first `wanted` of `present` rows, 0 = all. A wish for more is refused by Check().
int64_t RowsToUse(int64_t wanted, int64_t present) { return wanted == 0 ? present : wanted; }

}  // namespace

Trainer::Trainer(const TrainSpec& spec, const Model& model, const ImageSet& train, const ImageSet& test,
                 Collective& collective, RunObserver& observer)
    : spec_(spec),
      model_(model),
      train_(train),
      test_(test),
      collective_(collective),
      observer_(observer),
      train_rows_(RowsToUse(spec.data.train_rows, train.rows)),
      test_rows_(RowsToUse(spec.data.test_rows, test.rows)),
      total_iterations_(spec.epochs * ((train_rows_ + spec.batch_size - 1) / spec.batch_size)),
      weights_(model.parameters()),
      average_(model.parameters()),
      optimizer_(spec.optimizer, model.parameters()),
      reducer_(model.parameters()) {
  weights_.Initialize(spec.seed);
  average_ = weights_.Clone();
}

absl::Status Trainer::Check() const {
  const auto too_many = [&](const char* field, int64_t wanted, int64_t present) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s is %d, but the data set %s has %d rows there; allowed is 0 "
                        "(all) to %d",
                        field, wanted, spec_.data.name, present, present));
  };
  if (train_rows_ > train_.rows) return too_many("train.data.train_rows", train_rows_, train_.rows);
  if (test_rows_ > test_.rows) return too_many("train.data.test_rows", test_rows_, test_.rows);
  if (spec_.batch_size < collective_.world_size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("train.batch_size is %d, fewer than the %d ranks; allowed is at least one row a rank",
                        spec_.batch_size, collective_.world_size()));
  }
  return absl::OkStatus();
}

// The algorithm box. Everything before Reduce is of this rank's rows, everything after is equal on all ranks.
absl::StatusOr<StepReport> Trainer::Step(int epoch, const std::vector<uint32_t>& order, int64_t position) {
  StepReport report;
  Stopwatch total;
  const Batch batch =
      GatherBatch(train_, RankRows(order, position, spec_.batch_size, collective_.rank(), collective_.world_size()));

  Stopwatch watch;
  const at::Tensor start =
      spec_.attack.random_start
          ? RandomStart(
                batch, spec_.attack.epsilon,
                {.seed = spec_.seed, .purpose = RandomPurpose::kAttackStart, .epoch = static_cast<uint32_t>(epoch)})
          : batch.x;
  const auto tick = [this] { tick_error_.Update(Tick()); };
  auto attacked = AttackAndMine(spec_, epoch, model_, weights_, batch, start, tick);
  if (!attacked.ok()) return attacked.status();
  report.seconds.attack = watch.Lap();

  StepSums local{
      .rows = batch.rows(), .hard_rows = attacked->mined.hard_count, .kept_rows = attacked->mined.kept_count};
  if (absl::Status status =
          ComputeGradients(model_, weights_, attacked->kept, &collective_, &reducer_.gradients(), &local);
      !status.ok()) {
    return status;
  }
  Stopwatch reduce;
  auto global = reducer_.Reduce(local, collective_);
  if (!global.ok()) return global.status();
  report.seconds.reduce = reduce.Lap();

  report.sums = *global;
  report.skipped = IsSkipped(spec_, epoch, *global);
  report.learning_rate = LearningRateAt(spec_.optimizer, position_.iteration, total_iterations_, epoch);
  if (!report.skipped) {
    optimizer_.Update(reducer_.gradients(), report.learning_rate, &weights_);
    UpdateStatistics(reducer_.gradients(), &weights_);
    if (spec_.ema_decay > 0) UpdateAverage(spec_.ema_decay, weights_, &average_);
  }
  ++position_.iteration;
  report.seconds.train = watch.Lap();
  report.seconds.total = total.Lap();
  if (!tick_error_.ok()) return tick_error_;
  return report;
}

absl::Status Trainer::Run() {
  if (epochs_done_ > 0) {  // the attempt before may have died in this evaluation
    if (absl::Status status = EvaluateIfDue(); !status.ok()) return status;
  }
  while (epochs_done_ < spec_.epochs) {
    if (absl::Status status = TrainEpoch(epochs_done_ + 1); !status.ok()) return status;
    ++epochs_done_;
    if (absl::Status status = CheckConverges(); !status.ok()) return status;
    if (absl::Status status = Save(); !status.ok()) return status;
    if (absl::Status status = EvaluateIfDue(); !status.ok()) return status;
  }
  return Emit("summary", RunSummaryJson(totals_, position_.iteration));
}

absl::Status Trainer::TrainEpoch(int epoch) {
  position_.epoch = epoch;
  position_.phase = stepped_ ? "train" : "first_step";
  if (absl::Status status = Tick(); !status.ok()) return status;
  const std::vector<uint32_t> order = EpochOrder(spec_.seed, epoch, train_rows_);
  TrainWindow window, whole;
  Stopwatch since_point;
  double learning_rate = 0;
  for (int64_t position = 0; position < train_rows_; position += spec_.batch_size) {
    auto step = Step(epoch, order, position);
    if (!step.ok()) return step.status();
    stepped_ = true;
    position_.phase = "train";
    if (absl::Status status = Tick(); !status.ok()) return status;
    window.Add(step->sums, step->seconds, step->skipped);
    whole.Add(step->sums, step->seconds, step->skipped);
    learning_rate = step->learning_rate;
    non_finite_in_a_row_ = step->sums.finite ? 0 : non_finite_in_a_row_ + 1;
    if (non_finite_in_a_row_ >= kMostNonFiniteInARow) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "training diverged: the loss or a gradient was not finite in %d iterations in a row, up to iteration %d of "
          "epoch %d; lower train.optimizer.learning_rate (%g)",
          kMostNonFiniteInARow, position_.iteration, epoch, spec_.optimizer.learning_rate));
    }
    if (since_point.Elapsed() >= kSecondsBetweenPoints && position + spec_.batch_size < train_rows_) {
      if (absl::Status status = Emit("train", TrainMetricsJson(window, learning_rate, total_iterations_, false));
          !status.ok()) {
        return status;
      }
      window = {};
      since_point.Lap();
    }
  }
  totals_.attack_seconds += whole.seconds.attack;
  totals_.train_seconds += whole.seconds.train;
  if (IsMining(spec_, epoch)) {
    totals_.mined_rows += whole.sums.rows;
    totals_.hard_rows += whole.sums.hard_rows;
  }
  return Emit("train", TrainMetricsJson(whole, learning_rate, total_iterations_, true));
}

// Of values that are equal on all ranks, so that all end alike.
absl::Status Trainer::CheckConverges() const {
  std::string what;
  if (epochs_done_ == spec_.epochs && non_finite_in_a_row_ > 0) {
    what = absl::StrFormat("the loss or a gradient is not finite since iteration %d",
                           position_.iteration - non_finite_in_a_row_ + 1);
  } else if (!AllFinite(weights_.flat())) {
    what = absl::StrFormat("weights are not finite after iteration %d", position_.iteration);
  } else {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrFormat("training diverged: %s; lower train.optimizer.learning_rate (%g)",
                                                    what, spec_.optimizer.learning_rate));
}

absl::Status Trainer::EvaluateIfDue() {
  const bool final = epochs_done_ == spec_.epochs;
  const int every = spec_.evaluation.every_epochs;
  if (!final && (every == 0 || epochs_done_ % every != 0)) return absl::OkStatus();
  position_.phase = "evaluate";
  if (absl::Status status = Tick(); !status.ok()) return status;
  std::vector<AttackSuite> suites = spec_.evaluation.suites;
  if (final) {
    suites.insert(suites.end(), spec_.evaluation.final_suites.begin(), spec_.evaluation.final_suites.end());
  }
  Stopwatch watch;
  auto counts = Evaluate(model_, spec_.ema_decay > 0 ? average_ : weights_, test_, test_rows_, suites, spec_.seed,
                         collective_, [this] { tick_error_.Update(Tick()); });
  if (!counts.ok()) return counts.status();
  if (!tick_error_.ok()) return tick_error_;
  const double seconds = watch.Lap();
  totals_.evaluation_seconds += seconds;
  return Emit("evaluation", EvaluationMetricsJson(*counts, suites, test_.class_names, seconds, final));
}

absl::Status Trainer::Save() {
  position_.phase = "save";
  if (absl::Status status = Tick(); !status.ok()) return status;
  if (IsFirst()) {
    if (absl::Status status = observer_.OnCheckpoint(MakeCheckpoint()); !status.ok()) return status;
  }
  return collective_.Barrier();  // which waits for a slow disk; the next sum would not
}

absl::Status Trainer::Tick() { return observer_.OnTick(position_); }

absl::Status Trainer::Emit(const char* kind, nlohmann::json content) {
  if (!IsFirst()) return absl::OkStatus();
  return observer_.OnMetric(
      {{"iteration", position_.iteration}, {"epoch", std::max(1, position_.epoch)}, {kind, std::move(content)}});
}

Checkpoint Trainer::MakeCheckpoint() const {
  Checkpoint out;
  out.info.iteration = position_.iteration;
  out.info.epoch = epochs_done_;
  out.info.world_size = collective_.world_size();
  out.info.threads_per_rank = spec_.threads_per_rank;
  weights_.Export("", &out.model);
  FoldClassBias(OutputBias(model_), &out.model, &out.state);
  optimizer_.Export(&out.state);
  if (spec_.ema_decay > 0) average_.Export("average.", &out.state);
  out.scalars = {{"updates", optimizer_.updates()},
                 {"non_finite_in_a_row", non_finite_in_a_row_},
                 {"attack_seconds", totals_.attack_seconds},
                 {"train_seconds", totals_.train_seconds},
                 {"evaluation_seconds", totals_.evaluation_seconds},
                 {"mined_rows", totals_.mined_rows},
                 {"hard_rows", totals_.hard_rows}};
  return out;
}

absl::Status Trainer::Restore(const Checkpoint& checkpoint) {
  const CheckpointInfo& info = checkpoint.info;
  const int64_t expected = total_iterations_ / spec_.epochs * info.epoch;
  if (info.epoch < 1 || info.epoch > spec_.epochs || info.iteration != expected) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the checkpoint is of epoch %d, iteration %d, which this spec does not have; resume with the spec it was made "
        "with",
        info.epoch, info.iteration));
  }
  TensorMap model = checkpoint.model;
  UnfoldClassBias(OutputBias(model_), checkpoint.state, &model);
  if (absl::Status status = weights_.Import("", model); !status.ok()) return status;
  if (spec_.ema_decay > 0) {
    if (absl::Status status = average_.Import("average.", checkpoint.state); !status.ok()) return status;
  }
  try {
    const auto& scalars = checkpoint.scalars;
    if (absl::Status status = optimizer_.Import(checkpoint.state, scalars.at("updates").get<int64_t>()); !status.ok()) {
      return status;
    }
    non_finite_in_a_row_ = scalars.at("non_finite_in_a_row").get<int>();
    totals_ = {scalars.at("attack_seconds").get<double>(), scalars.at("train_seconds").get<double>(),
               scalars.at("evaluation_seconds").get<double>(), scalars.at("mined_rows").get<int64_t>(),
               scalars.at("hard_rows").get<int64_t>()};
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("the checkpoint lacks a number: ", error.what()));
  }
  position_.iteration = info.iteration;
  position_.epoch = info.epoch;
  epochs_done_ = info.epoch;
  return absl::OkStatus();
}

}  // namespace ham::trainer
