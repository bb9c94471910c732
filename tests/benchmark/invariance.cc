// Measures that a run does not depend on its ranks, and that a resumed one is the run that was never interrupted.
//
//   invariance ranks STEPS    one JSON line for each precision and number of ranks (Gloo on loopback, as threads), in
//                             float64 also with method.balance_ranks, then one for two threads on one rank, each
//                             against one rank with one thread
//   invariance resume STOPS   one JSON line: runs stopped at random iterations and resumed from their files
//
// The network is a PreActResNet-18 of 8 channels on 3 x 12 x 12 images, HAM from the start of mining on, with momentum,
// averaged weights, class bias and augmentation. The last batch of an epoch leaves ranks without a row, mining leaves
// ranks without a hard one.
#include <stdlib.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/norm.h>
#include <nlohmann/json.hpp>

#include "tests/support/run_ranks.h"
#include "worker/trainer/checkpoint.h"
#include "worker/trainer/counter_rng.h"
#include "worker/trainer/models/networks.h"
#include "worker/trainer/trainer.h"

namespace ham::trainer {
namespace {

constexpr int64_t kRows = 91, kSide = 12, kClasses = 4;
constexpr int64_t kWidth = 8;
constexpr int64_t kBatch = 18;  // 5 whole batches an epoch, then 1 row

// A bright quadrant, its number the label, on noise.
ImageSet Images() {
  std::vector<uint8_t> images(kRows * kSide * kSide * 3);
  std::vector<int64_t> labels(kRows);
  std::vector<float> noise(kSide * kSide * 3);
  for (int64_t row = 0; row < kRows; ++row) {
    FillUniform({.seed = 5, .sample = static_cast<uint32_t>(row)}, 0, 1, static_cast<int64_t>(noise.size()),
                noise.data());
    labels[row] = row * 7 % kClasses;
    for (int64_t i = 0; i < kSide * kSide * 3; ++i) {
      const int64_t y = i / 3 / kSide, x = i / 3 % kSide;
      const bool inside = y / (kSide / 2) * 2 + x / (kSide / 2) == labels[row];
      images[row * kSide * kSide * 3 + i] = static_cast<uint8_t>(noise[i] * 200 + (inside ? 40 : 0));
    }
  }
  return MakeImageSet(3, kSide, kSide, std::move(images), std::move(labels), {"a", "b", "c", "d"});
}

TrainSpec Spec(Precision precision) {
  TrainSpec spec;
  spec.data.name = "generated";
  spec.data.augmentation = {.crop_padding = 2, .flip = true};
  spec.method = {Method::kHam, 2, 1, 0.1, 1};
  spec.attack = {0.05, 0.02, 4, true};
  spec.optimizer = {.name = OptimizerKind::kSgd, .learning_rate = 0.05, .momentum = 0.9, .weight_decay = 5e-4};
  spec.epochs = 100;
  spec.batch_size = kBatch;
  spec.ema_decay = 0.9;
  spec.seed = 11;
  spec.class_bias.running_rate = 0.01;
  spec.precision = precision;
  spec.evaluation.every_epochs = 0;
  return spec;
}

class Observer : public RunObserver {
 public:
  absl::Status OnTick(const Position&) override { return absl::OkStatus(); }
  absl::Status OnMetric(const nlohmann::json&) override { return absl::OkStatus(); }
  absl::Status OnCheckpoint(Checkpoint checkpoint) override {
    if (!keep.contains(checkpoint.info.iteration)) return absl::OkStatus();
    return WriteCheckpoint(directory + "/" + std::to_string(checkpoint.info.iteration), checkpoint).status();
  }
  std::string directory;
  std::set<int64_t> keep;  // iterations
};

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "invariance: %s\n", std::string(status.message()).c_str());
  exit(1);
}

// What a run was like after each step.
struct Trace {
  std::vector<at::Tensor> weights;       // float64, statistics included
  std::vector<std::set<uint32_t>> kept;  // rows trained on, over all ranks
  int64_t ranks_without_row = 0;         // over steps and ranks: nothing in the batch
  int64_t ranks_without_hard = 0;        // rows, but none kept
  std::vector<size_t> busiest;           // rows trained on by the rank with most
};

Trace Run(const TrainSpec& spec, int world_size, int threads, int64_t steps) {
  const ImageSet images = Images();
  const auto model = MakePreActResNet18({.image = {3, kSide, kSide}, .classes = kClasses}, kWidth);
  const auto data = ChooseRows(spec.data, images, images);
  Check(data.status());
  Trace out;
  out.kept.resize(steps);
  out.busiest.resize(steps);
  absl::Mutex mutex;
  const auto body = [&](Collective& ranks) {
    at::set_num_threads(threads);
    Observer observer;
    Trainer trainer(spec, *model, *data, ranks, observer);
    Check(trainer.Check());
    int64_t step = 0;
    for (int epoch = 1; step < steps; ++epoch) {
      const std::vector<uint32_t> order = trainer.OrderOf(epoch);
      for (int64_t position = 0; position < kRows && step < steps; position += kBatch, ++step) {
        const auto report = trainer.Step(epoch, order, position);
        Check(report.status());
        const absl::MutexLock lock(&mutex);
        out.kept[step].insert(report->kept.begin(), report->kept.end());
        out.busiest[step] = std::max(out.busiest[step], report->kept.size());
        const bool none = RankRows(order, position, kBatch, ranks.rank(), world_size).empty();
        out.ranks_without_row += none;
        out.ranks_without_hard += !none && report->kept.empty();
        if (ranks.rank() == 0) out.weights.push_back(trainer.weights().flat().to(at::kDouble, false, /*copy=*/true));
      }
    }
  };
  if (world_size == 1) {
    body(*MakeLocalCollective());
  } else {
    ham::testing::RunGlooRanks(world_size, body);
  }
  return out;
}

double Norm(const at::Tensor& tensor) { return at::norm(tensor).item<double>(); }

double Relative(const at::Tensor& a, const at::Tensor& b) { return Norm(a - b) / Norm(b); }

nlohmann::json Compare(const Trace& trace, const Trace& one) {
  int64_t equal_masks = 0;
  nlohmann::json growth = nlohmann::json::object();
  double largest = 0;
  for (size_t step = 0; step < one.weights.size(); ++step) {
    equal_masks += trace.kept[step] == one.kept[step];
    const double difference = Relative(trace.weights[step], one.weights[step]);
    largest = std::max(largest, difference);
    if (step == 0 || (step + 1) % 10 == 0) growth[std::to_string(step + 1)] = difference;
  }
  return {{"steps", one.weights.size()},
          {"equal_masks", equal_masks},
          {"largest_difference", largest},
          {"growth", growth},
          {"ranks_without_row", trace.ranks_without_row},
          {"ranks_without_hard", trace.ranks_without_hard},
          {"rows_of_busiest", std::accumulate(trace.busiest.begin(), trace.busiest.end(), size_t{0})}};
}

void PrintRanks(int64_t steps) {
  TrainSpec spec = Spec(Precision::kFp64);
  const TrainSpec fp32 = Spec(Precision::kFp32);
  const Trace exact = Run(spec, 1, 1, steps);
  const at::Tensor start = [] {
    const auto model = MakePreActResNet18({.image = {3, kSide, kSide}, .classes = kClasses}, kWidth);
    ParameterSet weights(model->parameters());
    weights.Initialize(11);
    return weights.flat().to(at::kDouble);
  }();
  const Trace rounded = Run(fp32, 1, 1, steps);
  // Error of the first update against float64, in units of that of one rank.
  const auto first_error = [&](const Trace& trace) {
    return Norm(trace.weights[0] - exact.weights[0]) / Norm(exact.weights[0] - start);
  };
  for (const bool balance : {false, true}) {
    spec.method.balance_ranks = balance;
    for (const int world_size : {2, 3, 4}) {
      nlohmann::json line = Compare(Run(spec, world_size, 1, steps), exact);
      line.update({{"precision", "fp64"}, {"ranks", world_size}, {"balance_ranks", balance}});
      std::printf("%s\n", line.dump().c_str());
    }
  }
  for (const int world_size : {2, 3, 4}) {
    const Trace trace = Run(fp32, world_size, 1, steps);
    nlohmann::json line = Compare(trace, rounded);
    line.update({{"precision", "fp32"},
                 {"ranks", world_size},
                 {"first_step_error", first_error(trace)},
                 {"first_step_error_of_one_rank", first_error(rounded)}});
    std::printf("%s\n", line.dump().c_str());
  }
  nlohmann::json line = Compare(Run(fp32, 1, 2, steps), rounded);
  line.update({{"precision", "fp32"}, {"ranks", 1}, {"threads", 2}});
  std::printf("%s\n", line.dump().c_str());
}

// A run of `epochs` epochs that began from `checkpoint`, or anew; its weights and averages at the end.
Checkpoint RunToEnd(const TrainSpec& spec, const Model& model, const RunData& data, const std::string& manifest,
                    Observer& observer) {
  const auto ranks = MakeLocalCollective();
  Trainer trainer(spec, model, data, *ranks, observer);
  if (!manifest.empty()) {
    const auto checkpoint = LoadCheckpoint(manifest);
    Check(checkpoint.status());
    Check(trainer.Restore(*checkpoint));
  }
  Check(trainer.Run());
  return trainer.MakeCheckpoint();
}

bool SameTensors(const TensorMap& a, const TensorMap& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [name, tensor] : a) {
    if (!b.contains(name) || !at::equal(tensor, b.at(name))) return false;
  }
  return true;
}

void PrintResume(int stops) {
  at::set_num_threads(1);
  const ImageSet images = Images();
  TrainSpec spec = Spec(Precision::kFp32);
  spec.epochs = 20;
  spec.method.mining_start_epoch = 3;
  spec.checkpoint.every_iterations = 1;
  spec.evaluation.suites.clear();
  const auto model = MakePreActResNet18({.image = {3, kSide, kSide}, .classes = kClasses}, kWidth);
  const auto data = ChooseRows(spec.data, images, images);
  Check(data.status());
  const int64_t iterations = spec.epochs * ((kRows + kBatch - 1) / kBatch);
  char directory[] = "/tmp/ham-invariance-XXXXXX";
  if (mkdtemp(directory) == nullptr) Check(absl::UnavailableError("cannot make a directory in /tmp"));
  const unsigned seed = std::random_device()();
  std::mt19937 random(seed);
  Observer observer;
  observer.directory = directory;
  while (static_cast<int>(observer.keep.size()) < stops) {
    observer.keep.insert(1 + static_cast<int64_t>(random() % (iterations - 1)));
  }
  const Checkpoint whole = RunToEnd(spec, *model, *data, "", observer);
  int equal = 0;
  for (const int64_t iteration : observer.keep) {
    Observer silent;
    const Checkpoint resumed = RunToEnd(
        spec, *model, *data, std::string(directory) + "/" + std::to_string(iteration) + "/manifest.json", silent);
    equal += SameTensors(resumed.model, whole.model) && SameTensors(resumed.state, whole.state);
  }
  std::filesystem::remove_all(directory);
  const nlohmann::json line = {{"stops", stops}, {"bit_equal", equal}, {"iterations", iterations}, {"seed", seed}};
  std::printf("%s\n", line.dump().c_str());
}

}  // namespace
}  // namespace ham::trainer

int main(int argc, char** argv) {
  const std::string what = argc == 3 ? argv[1] : "";
  const int count = argc == 3 ? std::atoi(argv[2]) : 0;
  if (what == "ranks" && count > 0) {
    ham::trainer::PrintRanks(count);
  } else if (what == "resume" && count > 0) {
    ham::trainer::PrintResume(count);
  } else {
    std::fprintf(stderr, "usage: invariance ranks STEPS | resume STOPS\n");
    return 2;
  }
  return 0;
}
