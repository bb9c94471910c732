// The engine for a Python that compares.
//
//   engine_peer logits|step IN.safetensors OUT.safetensors     engine_step.h
//   engine_peer apgd|fab IN.safetensors OUT.safetensors        engine_attacks.h
//   engine_peer attacks IN.safetensors KEY=VALUE...            the same; the settings replace those of the file
//   engine_peer time IN.safetensors                            does a step for each line of standard input
//   engine_peer evaluate WEIGHTS.safetensors DATA_ROOT NAME    prints the error in per cent of cnn-wong-kolter's
//   weights
//       on all test images of the data set: PGD-100 on the cross entropy, epsilon 0.1, step 0.01, from the image; wrong
//       at any point on the way is wrong
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include <ATen/Parallel.h>

#include "tests/interop/engine_attacks.h"
#include "tests/interop/engine_step.h"
#include "worker/trainer/data/dataset.h"
#include "worker/trainer/evaluation/evaluator.h"
#include "worker/trainer/freed_memory.h"
#include "worker/trainer/weights_file.h"

namespace ham::trainer {
namespace {

using Command = TensorMap (*)(const Safetensors&);
const std::map<std::string, Command>& Commands() {
  static const auto* const commands =
      new std::map<std::string, Command>{{"logits", EngineLogits},
                                         {"step", [](const Safetensors& in) { return EngineStep(in); }},
                                         {"apgd", FollowApgd},
                                         {"fab", FollowFab}};
  return *commands;
}

absl::Status Run(const std::string& command, const std::string& in, const std::string& out) {
  at::set_num_threads(1);
  const auto content = ReadSafetensors(in);
  if (!content.ok()) return content.status();
  const auto bytes = EncodeSafetensors({Commands().at(command)(*content), {}});
  if (!bytes.ok()) return bytes.status();
  std::ofstream file(out, std::ios::binary);
  return file << *bytes && file.flush() ? absl::OkStatus() : absl::UnavailableError("cannot write " + out);
}

absl::Status PrintAttacks(const std::string& in, const std::vector<std::string>& settings) {
  at::set_num_threads(1);
  auto content = ReadSafetensors(in);
  if (!content.ok()) return content.status();
  for (const std::string& setting : settings) {
    const size_t equals = setting.find('=');
    if (equals == std::string::npos) return absl::InvalidArgumentError(setting + " is no KEY=VALUE");
    content->metadata[setting.substr(0, equals)] = setting.substr(equals + 1);
  }
  std::printf("%s\n", RunAttacks(*content).c_str());
  return absl::OkStatus();
}

// A HAM step a line of standard input: prints its seconds and the number of hard rows.
absl::Status TimeSteps(const std::string& in) {
  at::set_num_threads(1);
  const auto content = ReadSafetensors(in);
  if (!content.ok()) return content.status();
  for (std::string line; std::getline(std::cin, line);) {
    double seconds = 0;
    const TensorMap step = EngineStep(*content, &seconds);
    std::printf("%.9f %d\n", seconds, static_cast<int>(step.at("x_adv").size(0)));
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

absl::Status PrintRobustError(const std::string& file, const std::string& data_root, const std::string& name) {
  const auto images = LoadDataSet(data_root, name, Split::kTest);
  if (!images.ok()) return images.status();
  const auto model = MakeModel("cnn-wong-kolter", {.image = {images->channels, images->height, images->width}});
  if (!model.ok()) return model.status();
  ParameterSet weights((*model)->parameters());
  std::string note;
  if (absl::Status status = ImportWeights(file, **model, &weights, &note); !status.ok()) return status;
  std::vector<uint32_t> rows(images->labels.size());
  std::iota(rows.begin(), rows.end(), 0);
  EvaluationAttack attack{AttackLoss::kCrossEntropy, 100, 0.01, 1, false};
  attack.judged_at = JudgedAt::kAny;
  const auto ranks = MakeLocalCollective();
  NetworkPasses passes(**model, weights);
  const auto counts = Evaluate(passes, weights, *images, rows, {{"pgd-100", 0.1, {attack}}}, 0, *ranks, [] {});
  if (!counts.ok()) return counts.status();
  const int64_t right = std::accumulate(counts->robust[0].begin(), counts->robust[0].end(), int64_t{0});
  std::printf("%.2f\n", 100.0 - 100.0 * static_cast<double>(right) / static_cast<double>(rows.size()));
  return absl::OkStatus();
}

}  // namespace
}  // namespace ham::trainer

namespace {

using ham::trainer::Commands;

absl::Status Dispatch(const std::vector<std::string>& arguments) {
  const std::string command = arguments.empty() ? "" : arguments[0];
  const size_t count = arguments.size();
  if (command == "evaluate" && count == 4) {
    return ham::trainer::PrintRobustError(arguments[1], arguments[2], arguments[3]);
  }
  if (command == "time" && count == 2) return ham::trainer::TimeSteps(arguments[1]);
  if (command == "attacks" && count >= 2) {
    return ham::trainer::PrintAttacks(arguments[1], {arguments.begin() + 2, arguments.end()});
  }
  if (Commands().contains(command) && count == 3) return ham::trainer::Run(command, arguments[1], arguments[2]);
  return absl::InvalidArgumentError(
      "usage: engine_peer logits|step|apgd|fab IN OUT, attacks IN KEY=VALUE..., time IN, or evaluate WEIGHTS DATA_ROOT "
      "NAME");
}

}  // namespace

int main(int argc, char** argv) {
  ham::trainer::KeepFreedMemory();
  try {
    const absl::Status status = Dispatch({argv + 1, argv + argc});
    if (status.ok()) return 0;
    std::fprintf(stderr, "engine_peer: %s\n", std::string(status.message()).c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "engine_peer: %s\n", error.what());
  }
  return 1;
}
