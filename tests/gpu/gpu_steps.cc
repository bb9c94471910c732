// Training steps when told, beside which peers.py does its own:
//
//   gpu_steps --spec JOB.json --data-root FOLDER [--weights FILE.safetensors]
//
// Reads one line, a number of steps, does them, and answers with one JSON object: seconds, rows, hard_rows, masks (of
// each step, a 1 for each row that was trained on), syncs (times that the host waited for the GPU in the last step, as
// the engine and LibTorch count them; null on a CPU), peak_bytes (of GPU memory that was taken; null likewise).
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <set>
#include <string>
#include <vector>

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <CLI/CLI.hpp>

#include "tests/gpu/count_syncs.h"
#include "worker/trainer/batch.h"
#include "worker/trainer/device.h"
#include "worker/trainer/job_runner.h"
#include "worker/trainer/stopwatch.h"
#include "worker/trainer/trainer.h"
#include "worker/trainer/weights_file.h"

namespace ham::trainer {
namespace {

class Steps {
 public:
  Steps(Trainer& trainer, const TrainSpec& spec)
      : trainer_(trainer), spec_(spec), order_(trainer.OrderOf(spec.epochs)) {}

  absl::StatusOr<nlohmann::json> Do(int count) {
    nlohmann::json masks = nlohmann::json::array();
    int64_t rows = 0, hard_rows = 0;
    Stopwatch watch;
    for (int i = 0; i < count; ++i) {
      if (absl::Status status = Next(&rows, &hard_rows, &masks); !status.ok()) return status;
    }
    if (OnGpu()) c10::cuda::device_synchronize();
    nlohmann::json answer = {{"seconds", watch.Lap()}, {"rows", rows},     {"hard_rows", hard_rows},
                             {"masks", masks},         {"syncs", nullptr}, {"peak_bytes", nullptr}};
    if (OnGpu()) {
      const ham::testing::CountSyncs syncs;
      const int64_t waits = HostWaits();
      if (absl::Status status = Next(&rows, &hard_rows, &masks); !status.ok()) return status;
      answer["syncs"] = syncs.count() + HostWaits() - waits;
      answer["peak_bytes"] = c10::cuda::CUDACachingAllocator::getDeviceStats(0).reserved_bytes[0].peak;
    }
    return answer;
  }

 private:
  bool OnGpu() const { return spec_.device == Device::kCuda; }

  absl::Status Next(int64_t* rows, int64_t* hard_rows, nlohmann::json* masks) {
    if (position_ + spec_.batch_size > static_cast<int64_t>(order_.size())) position_ = 0;
    auto report = trainer_.Step(spec_.epochs, order_, position_);
    if (!report.ok()) return report.status();
    const std::set<uint32_t> kept(report->kept.begin(), report->kept.end());
    std::string mask;
    for (const uint32_t row : RankRows(order_, position_, spec_.batch_size, 0, 1))
      mask += kept.contains(row) ? '1' : '0';
    masks->push_back(mask);
    *rows += spec_.batch_size;
    *hard_rows += static_cast<int64_t>(report->kept.size());
    position_ += spec_.batch_size;
    return absl::OkStatus();
  }

  Trainer& trainer_;
  const TrainSpec& spec_;
  const std::vector<uint32_t> order_;
  int64_t position_ = 0;
};

absl::Status Serve(const RankJob& job, const std::string& weights_file) {
  auto inputs = PrepareRun(job);
  if (!inputs.ok()) return inputs.status();
  const auto data = ChooseRows(inputs->spec.data, inputs->train, inputs->test);
  if (!data.ok()) return data.status();
  const auto alone = MakeLocalCollective();
  SilentObserver observer;
  Trainer trainer(inputs->spec, *inputs->model, *data, *alone, observer, inputs->accelerator.get());
  if (absl::Status status = trainer.Check(); !status.ok()) return status;
  if (!weights_file.empty()) {
    ParameterSet weights(inputs->model->parameters(), trainer.weights().type());
    std::string note;
    if (absl::Status status = ImportWeights(weights_file, *inputs->model, &weights, &note); !status.ok()) return status;
    trainer.StartFrom(weights);
  }
  Steps steps(trainer, inputs->spec);
  for (int count = 0; std::cin >> count;) {
    const auto answer = steps.Do(count);
    if (!answer.ok()) return answer.status();
    std::printf("%s\n", answer->dump().c_str());
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("gpu_steps: training steps when told");
  RankJob job;
  std::string spec, weights;
  app.add_option("--spec", spec, "Job")->required();
  app.add_option("--data-root", job.data_root, "Folder with the data sets")->required();
  app.add_option("--weights", weights, "Weights to start from");
  CLI11_PARSE(app, argc, argv);
  std::ifstream file(spec);
  job.spec = nlohmann::json::parse(file);
  job.threads = job.spec.at("train").at("resources").at("threads_per_rank");
  const absl::Status status = Serve(job, weights);
  if (status.ok()) return 0;
  std::fprintf(stderr, "gpu_steps: %s\n", std::string(status.message()).c_str());
  return 1;
}

}  // namespace
}  // namespace ham::trainer

int main(int argc, char** argv) {
  try {
    return ham::trainer::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_steps: %s\n", error.what());
    return 1;
  }
}
