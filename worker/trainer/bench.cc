#include "worker/trainer/bench.h"

#include <cstdio>

#include "absl/strings/str_format.h"
#include "worker/trainer/counter_rng.h"
#include "worker/trainer/stopwatch.h"
#include "worker/trainer/trainer.h"

namespace ham::trainer {
namespace {

constexpr int kWarmUpIterations = 5;

class SilentObserver : public RunObserver {
 public:
  absl::Status OnTick(const Position&) override { return absl::OkStatus(); }
  absl::Status OnMetric(const nlohmann::json&) override { return absl::OkStatus(); }
  absl::Status OnCheckpoint(Checkpoint) override { return absl::OkStatus(); }
};

void Print(const TrainWindow& window, double seconds, bool as_json) {
  const double rate = static_cast<double>(window.sums.rows) / seconds;
  const double hard = static_cast<double>(window.sums.hard_rows) / static_cast<double>(window.sums.rows);
  if (as_json) {
    const nlohmann::json out = {{"images_per_second", rate},
                                {"seconds", seconds},
                                {"attack_seconds", window.seconds.Attack()},
                                {"train_seconds", window.seconds.Train()},
                                {"reduce_seconds", window.seconds[Phase::kAllReduce]},
                                {"iterations", window.iterations},
                                {"hard_share", hard}};
    std::printf("%s\n", out.dump().c_str());
    return;
  }
  std::printf(
      "%.1f images/s  %d iterations in %.2f s: attack %.2f s, train %.2f s (of it all-reduce %.2f s), hard %.1f %%\n",
      rate, static_cast<int>(window.iterations), seconds, window.seconds.Attack(), window.seconds.Train(),
      window.seconds[Phase::kAllReduce], 100 * hard);
}

}  // namespace

absl::Status RunBench(const RankJob& job, const std::string& rendezvous_dir, int iterations, bool json) {
  auto inputs = PrepareRun(job);
  if (!inputs.ok()) return inputs.status();
  auto store = job.world_size > 1 ? MakeFileStore(rendezvous_dir) : nullptr;
  auto collective = ConnectRanks(job, inputs->accelerator.get(), store.get());
  if (!collective.ok()) return collective.status();
  SilentObserver observer;
  auto data = ChooseRows(inputs->spec.data, inputs->train, inputs->test);
  if (!data.ok()) return data.status();
  Trainer trainer(inputs->spec, *inputs->model, *data, **collective, observer, DeviceOf(*inputs));
  if (absl::Status status = trainer.Check(); !status.ok()) return status;
  const int epoch = inputs->spec.epochs;
  const int64_t batch = inputs->spec.batch_size;
  const std::vector<uint32_t> order = trainer.OrderOf(epoch);
  const int64_t whole_batches = static_cast<int64_t>(order.size()) / batch;
  if (whole_batches == 0) return absl::InvalidArgumentError("train.batch_size is larger than the training set");
  TrainWindow window;
  Stopwatch watch;
  for (int i = -kWarmUpIterations; i < iterations; ++i) {
    if (i == 0) {
      if (absl::Status status = (*collective)->Barrier(); !status.ok()) return status;
      watch.Lap();
      trainer.profile().Take();
    }
    auto step = trainer.Step(epoch, order, (i + kWarmUpIterations) % whole_batches * batch);
    if (!step.ok()) return step.status();
    if (i >= 0) window.Add(step->sums, step->skipped);
  }
  window.seconds = trainer.profile().Take();
  if (job.rank == 0) Print(window, watch.Lap(), json);
  return absl::OkStatus();
}

}  // namespace ham::trainer
