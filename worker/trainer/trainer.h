// A whole training run on one rank: epochs of steps, evaluations and checkpoints.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/trainer/accelerator.h"
#include "worker/trainer/checkpoint.h"
#include "worker/trainer/class_bias.h"
#include "worker/trainer/collective.h"
#include "worker/trainer/data/dataset.h"
#include "worker/trainer/epoch_order.h"
#include "worker/trainer/gradient_reducer.h"
#include "worker/trainer/ham_step.h"
#include "worker/trainer/input_pipeline.h"
#include "worker/trainer/network_passes.h"
#include "worker/trainer/optimizer.h"
#include "worker/trainer/overfitting_watch.h"
#include "worker/trainer/run_metrics.h"
#include "worker/trainer/train_spec.h"
#include "worker/trainer/weight_average.h"

namespace ham::trainer {

// Where a rank is, for progress reports.
struct Position {
  const char* phase = "load";  // "load", "connect", "first_step", "train", "save", "evaluate"
  int64_t iteration = 0;       // optimiser iterations done
  int epoch = 0;               // 1-based; 0 before the first
};

// Told by the training thread; must be quick. An error ends the run with it.
class RunObserver {
 public:
  virtual ~RunObserver() = default;
  // After each attack step, evaluation batch and iteration, and at each change of phase; on every rank.
  virtual absl::Status OnTick(const Position& position) = 0;
  // A MetricPoint; on rank 0 only.
  virtual absl::Status OnMetric(const nlohmann::json& point) = 0;
  // After each epoch, before its evaluation, and within epochs where asked for; on rank 0 only. The observer fills in
  // what only it knows (attempt, build, spec digest) and stores it.
  virtual absl::Status OnCheckpoint(Checkpoint checkpoint) = 0;
  // After each evaluation on validation images, by its first suite; on rank 0 only.
  virtual absl::Status OnScores(const Scores&) { return absl::OkStatus(); }
};

// For whoever only wants the steps.
class SilentObserver : public RunObserver {
 public:
  absl::Status OnTick(const Position&) override { return absl::OkStatus(); }
  absl::Status OnMetric(const nlohmann::json&) override { return absl::OkStatus(); }
  absl::Status OnCheckpoint(Checkpoint) override { return absl::OkStatus(); }
};

// What a run reads. Row numbers of the data sets; no row is in both `train_rows` and `validation_rows`.
struct RunData {
  const ImageSet& train;
  const ImageSet& test;
  std::vector<uint32_t> train_rows;
  std::vector<uint32_t> validation_rows;  // of `train`; may be empty
  std::vector<uint32_t> test_rows;
  ExtraRows extra = {};  // of `train`; what is fitted or measured after a step never sees them
};

// The rows that `options` asks for. InvalidArgument names the field where the data set has not that many.
absl::StatusOr<RunData> ChooseRows(const DataOptions& options, const ImageSet& train, const ImageSet& test);

// A step that the trainer, which outlives this, was asked for. What is of all ranks may still be on its way from the
// device: the first look waits for it.
struct StepReport {
  int64_t iteration = 0;  // of the run, from 1
  double learning_rate = 0;
  std::vector<uint32_t> kept;  // rows of this rank that were trained on
  int64_t needed_rows = 0;     // NeededRows()
  std::shared_ptr<GlobalSums> global;

  const StepSums& sums() const { return global->Get(); }
  bool skipped() const { return IsSkipped(needed_rows, sums()); }
};

// Same calls on all ranks. One thread. The references outlive it. Exceptions of LibTorch pass through.
class Trainer {
 public:
  // Computes on the accelerator's device, or where there is none on the host; checkpoints are the same for both.
  Trainer(const TrainSpec& spec, const Model& model, const RunData& data, Collective& collective, RunObserver& observer,
          Accelerator* accelerator = nullptr);

  // What can be seen to be wrong before training, in one sentence naming the field. InvalidArgument.
  absl::Status Check() const;

  // Before any step: these weights instead of those from the seed.
  void StartFrom(const ParameterSet& weights);

  // Goes on after `checkpoint`: bit for bit as if never interrupted with the build, world size and threads that wrote
  // it, with others and on a GPU up to rounding. InvalidArgument if it does not fit the spec.
  absl::Status Restore(const Checkpoint& checkpoint);

  // Metrics will say how much of these floating-point operations a second, of all ranks together, the run makes use of.
  void HoldAgainst(double peak_per_second) { scale_.peak_per_second = peak_per_second; }

  // The run summary will say that this run is not exactly what it would have been: one sentence each, once.
  void NoteInexact(const std::vector<std::string>& reasons);

  // Trains to the end. InvalidArgument when training diverged: 50 iterations in a row with non-finite numbers, or the
  // last ones of the run, or weights that are not finite (such are never handed to OnCheckpoint); else the errors of
  // collective and observer.
  absl::Status Run();

  // EpochOrder (epoch_order.h) of 1-based `epoch`.
  std::vector<uint32_t> OrderOf(int epoch) const;

  // One step on the global batch at `position` of the epoch's order; all ranks together. Of one rank on a device it is
  // only asked for, unless the update needs the sums on the host. InvalidArgument where the GPU has too little memory
  // for it: says what would fit (fitting_rows.h).
  absl::StatusOr<StepReport> Step(int epoch, const std::vector<uint32_t>& order, int64_t position);

  // State after the last iteration.
  Checkpoint MakeCheckpoint();

  const ParameterSet& weights() const { return weights_; }
  int64_t iteration() const { return position_.iteration; }
  NetworkPasses& passes() { return passes_; }
  // Of the steps; told of attack steps and passes as parts.
  StepProfile& profile() { return profile_; }

 private:
  absl::StatusOr<StepReport> TryStep(int epoch, const std::vector<uint32_t>& order, int64_t position);
  // This rank's rows of part `part` of the batch at `position`.
  std::vector<uint32_t> RowsOf(const std::vector<uint32_t>& order, int64_t position, int part) const;
  // Attack, mining and gradients of one part, added to those before it.
  absl::Status StepPart(int epoch, const std::vector<uint32_t>& order, int64_t position, int part,
                        ParameterSet* attacked_weights, StepSums* local, StepReport* report);
  void Update(double gradient_norm, double learning_rate);
  // Update() before the host knows whether the step counts. statistics_before: of the attacked weights, at its begin.
  void UpdateAhead(const StepReport& report, const ParameterSet& attacked_weights, const at::Tensor& statistics_before);
  // Takes back what only the host counts of an update that was ahead of a step that did not count.
  void SettleUpdate();
  absl::Status TrainEpoch(int epoch);
  // Adds a step to the window and the epoch; sets diverged_ after too many that were not finite.
  void Account(const StepReport& step, TrainWindow* window);
  void TakeSeconds(TrainWindow* window);
  absl::Status SaveIfConverging();
  absl::Status FinishWeights();
  StepContext ContextOf(int epoch);
  absl::Status EvaluateIfDue();
  absl::Status EvaluateOn(const ImageSet& images, const std::vector<uint32_t>& rows, const char* split, bool final);
  absl::Status WatchOverfitting(const EvaluationCounts& validation);
  absl::Status Diverged(const std::string& what) const;
  absl::Status Save();
  absl::Status Tick();
  absl::Status Emit(const char* kind, nlohmann::json content);
  bool IsFirst() const { return collective_.rank() == 0; }

  const TrainSpec& spec_;
  const Model& model_;
  const RunData& data_;
  Collective& collective_;
  RunObserver& observer_;
  const int64_t epoch_iterations_;
  const int64_t total_iterations_;

  ParameterSet weights_;
  NetworkPasses passes_;
  WeightAverage average_;
  InputPipeline pipeline_;
  RunningClassBias class_bias_;
  Optimizer optimizer_;
  std::optional<StepReport> ahead_;  // the last step, if its update was
  GradientReducer reducer_;
  Position position_;
  bool stepped_ = false;
  int epochs_done_ = 0;
  int64_t epoch_position_ = 0;  // rows of the next epoch's order that are done
  TrainWindow epoch_;           // of these
  StepProfile profile_;
  FlopScale scale_;
  int non_finite_in_a_row_ = 0;
  absl::Status diverged_;
  double train_robust_ = 0;  // of the last whole epoch
  OverfittingWatch overfitting_;
  RunTotals totals_;
  absl::Status tick_error_;  // of the observer, met within an attack; ends the run at the next check
};

}  // namespace ham::trainer
