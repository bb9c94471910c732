// Measures what checkpoints of a PreActResNet-18 for CIFAR-10 cost a run.
//
//   checkpoint_benchmark DIRECTORY SAVES    one JSON line without averaged weights and one with: milliseconds that
//                                           training stops for each save, that its writing then takes in the
//                                           background, and that each restore takes
//
// A save is what Trainer::Save does on one rank; the next one begins when the writer is done, as in a run.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <nlohmann/json.hpp>

#include "worker/trainer/checkpoint_writer.h"
#include "worker/trainer/models/networks.h"
#include "worker/trainer/stopwatch.h"
#include "worker/trainer/trainer.h"

namespace ham::trainer {
namespace {

constexpr int64_t kRows = 4, kSide = 32, kClasses = 10;

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "checkpoint_benchmark: %s\n", std::string(status.message()).c_str());
  exit(1);
}

// Training stops from the tick that says "save" to the next one, of an epoch or an evaluation.
class Observer : public RunObserver {
 public:
  explicit Observer(CheckpointWriter& writer) : writer_(writer) {}
  absl::Status OnTick(const Position& position) override {
    const bool saving = std::string(position.phase) == "save";
    if (saving) {
      stopped_.Lap();
    } else if (saving_) {
      stops.push_back(stopped_.Lap() * 1e3);
      const absl::Status status = writer_.Finish();
      writes.push_back(stopped_.Lap() * 1e3);
      if (!status.ok()) return status;
    }
    saving_ = saving;
    return absl::OkStatus();
  }
  absl::Status OnMetric(const nlohmann::json&) override { return absl::OkStatus(); }
  absl::Status OnCheckpoint(Checkpoint checkpoint) override { return writer_.Store(std::move(checkpoint)); }

  std::vector<double> stops, writes;

 private:
  CheckpointWriter& writer_;
  Stopwatch stopped_;
  bool saving_ = false;
};

void Measure(const std::string& directory, int saves, bool average) {
  at::set_num_threads(1);
  const ImageSet images = MakeImageSet(3, kSide, kSide, std::vector<uint8_t>(kRows * kSide * kSide * 3, 100),
                                       {0, 1, 2, 3}, std::vector<std::string>(kClasses, "class"));
  TrainSpec spec;
  spec.method.name = Method::kPgdAt;
  spec.attack = {0.05, 0.02, 1, true};
  spec.optimizer = {.name = OptimizerKind::kSgd, .learning_rate = 0.001, .momentum = 0.9};
  spec.epochs = saves;
  spec.batch_size = kRows;
  spec.ema_decay = average ? 0.9 : 0;
  spec.evaluation.every_epochs = 0;
  const auto model = MakePreActResNet18({.image = {3, kSide, kSide}, .classes = kClasses}, 64);
  const auto data = ChooseRows(spec.data, images, images);
  Check(data.status());
  const auto ranks = MakeLocalCollective();
  CheckpointKeeper keeper(directory, /*uploads=*/false, /*keep_every_epochs=*/0);
  CheckpointWriter writer(directory, {}, spec.epochs, keeper, nullptr);
  Observer observer(writer);
  Trainer trainer(spec, *model, *data, *ranks, observer);
  Check(trainer.Run());
  Check(writer.Finish());

  char name[16];
  std::snprintf(name, sizeof(name), "epoch-%06d", spec.epochs);
  std::vector<double> restores;
  for (int i = 0; i < saves; ++i) {
    Trainer resumed(spec, *model, *data, *ranks, observer);
    Stopwatch watch;
    const auto checkpoint = LoadCheckpoint(directory + "/" + name + "/manifest.json");
    Check(checkpoint.status());
    Check(resumed.Restore(*checkpoint));
    restores.push_back(watch.Lap() * 1e3);
  }
  const auto checkpoint = trainer.MakeCheckpoint();
  int64_t bytes = 0;
  for (const TensorMap* map : {&checkpoint.model, &checkpoint.state}) {
    for (const auto& [tensor_name, tensor] : *map) bytes += static_cast<int64_t>(tensor.nbytes());
  }
  const nlohmann::json line = {{"average", average},
                               {"bytes", bytes},
                               {"stop_ms", observer.stops},
                               {"write_ms", observer.writes},
                               {"restore_ms", restores}};
  std::printf("%s\n", line.dump().c_str());
}

}  // namespace
}  // namespace ham::trainer

int main(int argc, char** argv) {
  const int saves = argc == 3 ? std::atoi(argv[2]) : 0;
  if (saves <= 0) {
    std::fprintf(stderr, "usage: checkpoint_benchmark DIRECTORY SAVES\n");
    return 2;
  }
  const std::string directory = argv[1];
  ham::trainer::Measure(directory + "/plain", saves, false);
  ham::trainer::Measure(directory + "/average", saves, true);
  return 0;
}
