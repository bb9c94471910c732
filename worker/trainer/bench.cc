#include "worker/trainer/bench.h"

#include <cstdio>
#include <fstream>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "worker/trainer/bench_report.h"
#include "worker/trainer/step_trace.h"
#include "worker/trainer/stopwatch.h"
#include "worker/trainer/trainer.h"

namespace ham::trainer {
namespace {

// A GPU's first steps record what the others replay (recorder.h).
constexpr int kWarmUpIterations = 5, kWarmUpIterationsOnGpu = 40;

absl::Status CheckBenchOptions(const BenchOptions& options, const TrainSpec& spec, const RunData& data) {
  if (options.epoch < 0 || options.epoch > spec.epochs) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--epoch is %d; the job has epochs 1 to %d: name one of these, or none for the last",
                        options.epoch, spec.epochs));
  }
  const auto test_rows = static_cast<int64_t>(data.test_rows.size());
  if (options.evaluation_rows < 0 || options.evaluation_rows > test_rows) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--evaluation is %d; the job has %d test images: allowed is 0 (no evaluation) to that",
                        options.evaluation_rows, test_rows));
  }
  if (static_cast<int64_t>(data.train_rows.size()) < spec.batch_size) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "train.batch_size is %d, more than the %d training images; lower it", spec.batch_size, data.train_rows.size()));
  }
  return absl::OkStatus();
}

absl::Status TimeSteps(const BenchOptions& options, const TrainSpec& spec, Collective& collective, Trainer& trainer,
                       BenchReport* report) {
  const std::vector<uint32_t> order = trainer.OrderOf(report->epoch);
  const int64_t whole_batches = static_cast<int64_t>(order.size()) / spec.batch_size;
  Stopwatch watch;
  std::optional<StepReport> last;  // not looked at, as in training
  const int warm_ups = spec.device == Device::kCuda ? kWarmUpIterationsOnGpu : kWarmUpIterations;
  for (int i = -warm_ups; i < options.iterations; ++i) {
    if (i == 0) {
      trainer.profile().Take();
      if (!options.trace.empty()) trainer.profile().KeepSpans();
      if (absl::Status status = collective.Barrier(); !status.ok()) return status;
      watch.Lap();
    }
    auto step = trainer.Step(report->epoch, order, (i + warm_ups) % whole_batches * spec.batch_size);
    if (!step.ok()) return step.status();
    if (last) report->window.Add(last->sums(), last->skipped());
    last.reset();
    if (i >= 0) last = *std::move(step);
  }
  if (last) report->window.Add(last->sums(), last->skipped());
  report->window.seconds = trainer.profile().Take();
  report->seconds = watch.Lap();
  return absl::OkStatus();
}

absl::Status TimeEvaluation(const BenchOptions& options, const RunInputs& inputs, const RunData& data,
                            Collective& collective, Trainer& trainer, BenchReport* report) {
  const std::vector<uint32_t> rows(data.test_rows.begin(), data.test_rows.begin() + options.evaluation_rows);
  StepProfile& profile = trainer.profile();
  profile.Enter(Phase::kEvaluation);
  const auto counts = Evaluate(trainer.passes(), trainer.weights(), data.test, rows, inputs.spec.evaluation.suites,
                               inputs.spec.seed, collective, [&] { profile.EndPart(); });
  if (!counts.ok()) return counts.status();
  profile.Leave();
  report->window.seconds.Add(profile.Take());
  report->evaluation_rows = options.evaluation_rows;
  report->evaluation_flops = report->scale.model.OfAll(counts->passes);
  return absl::OkStatus();
}

absl::Status CannotWrite(const std::string& path) {
  return absl::UnavailableError(
      absl::StrCat("--trace is ", path, ", which cannot be written; name a file in a folder that can"));
}

absl::Status WriteTrace(const BenchOptions& options, Collective& collective, Trainer& trainer, std::ofstream& file) {
  const auto trace = GatherTrace(trainer.profile().spans(), collective);
  if (!trace.ok() || collective.rank() != 0) return trace.status();
  file << *trace;
  file.close();
  return file ? absl::OkStatus() : CannotWrite(options.trace);
}

}  // namespace

absl::Status RunBench(const RankJob& job, const std::string& rendezvous_dir, const BenchOptions& options) {
  auto inputs = PrepareRun(job);
  if (!inputs.ok()) return inputs.status();
  const TrainSpec& spec = inputs->spec;
  auto data = ChooseRows(spec.data, inputs->train, inputs->test);
  if (!data.ok()) return data.status();
  if (absl::Status status = CheckBenchOptions(options, spec, *data); !status.ok()) return status;
  std::ofstream trace;
  if (job.rank == 0 && !options.trace.empty()) {
    trace.open(options.trace);
    if (!trace) return CannotWrite(options.trace);
  }
  auto store = job.world_size > 1 ? MakeFileStore(rendezvous_dir) : nullptr;
  auto collective = ConnectRanks(job, inputs->accelerator.get(), store.get());
  if (!collective.ok()) return collective.status();
  SilentObserver observer;
  Trainer trainer(spec, *inputs->model, *data, **collective, observer, inputs->accelerator.get());
  if (absl::Status status = trainer.Check(); !status.ok()) return status;
  BenchReport report{.model = spec.model.name,
                     .precision = job.spec.at("train").at("precision"),
                     .epoch = options.epoch > 0 ? options.epoch : spec.epochs,
                     .world_size = job.world_size,
                     .threads = job.threads,
                     .scale = {inputs->model->flops(), RanksPeak(*inputs, job.rank)}};
  if (absl::Status status = TimeSteps(options, spec, **collective, trainer, &report); !status.ok()) return status;
  if (options.evaluation_rows > 0) {
    absl::Status status = TimeEvaluation(options, *inputs, *data, **collective, trainer, &report);
    if (!status.ok()) return status;
  }
  if (!options.trace.empty()) {
    if (absl::Status status = WriteTrace(options, **collective, trainer, trace); !status.ok()) return status;
  }
  if (job.rank == 0) {
    std::printf("%s", options.json ? (BenchJson(report).dump() + "\n").c_str() : BenchTable(report).c_str());
  }
  return absl::OkStatus();
}

}  // namespace ham::trainer
