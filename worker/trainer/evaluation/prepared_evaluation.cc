#include "worker/trainer/evaluation/prepared_evaluation.h"

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <utility>

#include <ATen/Parallel.h>
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "proto/version.h"
#include "worker/trainer/checkpoint.h"
#include "worker/trainer/cpu_identity.h"
#include "worker/trainer/data/dataset.h"
#include "worker/trainer/device.h"
#include "worker/trainer/precision.h"
#include "worker/trainer/weights_file.h"

namespace ham::trainer {
namespace {

template <typename E, size_t N>
E ValueNamed(const std::pair<const char*, E> (&names)[N], const std::string& name) {
  return std::find_if(std::begin(names), std::end(names), [&](const auto& known) { return name == known.first; })
      ->second;
}

// As records name it.
std::string DeviceName(const Accelerator* accelerator) {
  if (accelerator != nullptr) return absl::StrCat(accelerator->name(), ", LibTorch ", LibTorchVersion());
  return absl::StrCat(CpuModel(), ", ", CpuInstructions(), ", LibTorch ", LibTorchVersion());
}

RecordedAttack RecordOf(const EvaluationAttack& attack) {
  const bool pgd = attack.name == AttackName::kPgd;
  RecordedAttack out;
  out.name = AttackNameOf(attack);
  out.steps = attack.steps;
  out.restarts = attack.restarts;
  if (pgd || attack.name == AttackName::kApgd) out.loss = AttackLossName(attack.loss);
  out.targets = attack.targets;
  if (!pgd) return out;
  out.step_size = attack.step_size;
  out.random_start = attack.random_start;
  out.judged_at = attack.judged_at == JudgedAt::kAny ? "any" : "last";
  return out;
}

}  // namespace

absl::StatusOr<PreparedEvaluation> PrepareEvaluation(const EvaluationSetup& setup,
                                                     std::unique_ptr<Accelerator> accelerator) {
  at::set_num_threads(setup.threads);
  const Precision precision = ValueNamed(kPrecisions, setup.precision);
  const NumberTypes types = TypesOf(precision);
  AllowTf32(types.tf32);
  if (accelerator != nullptr) {
    absl::Status status = CheckPrecision(precision, accelerator->name(), accelerator->compute_capability());
    if (!status.ok()) return status;
  }
  PreparedEvaluation out;
  out.device = DeviceName(accelerator.get());
  out.accelerator = std::move(accelerator);
  auto images = LoadDataSet(setup.data_root, setup.data, Split::kTest,
                            {.image_size = setup.image_size, .cache_directory = setup.data_cache, .tick = setup.tick});
  if (!images.ok()) return images.status();
  out.images = *std::move(images);
  auto loaded = LoadModel(setup.model, setup.weights,
                          {.image = {out.images.channels, out.images.height, out.images.width},
                           .classes = static_cast<int64_t>(out.images.class_names.size()),
                           .activation = setup.activation == "silu" ? Activation::kSilu : Activation::kRelu,
                           .compute = types.layers});
  if (!loaded.ok()) return loaded.status();
  if (!loaded->note.empty()) std::fprintf(stderr, "ham-trainer: %s\n", loaded->note.c_str());
  if (loaded->model->classes() != static_cast<int64_t>(out.images.class_names.size())) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: the network tells %d classes apart, the data set %s has %d",
                                                      setup.weights, loaded->model->classes(), setup.data,
                                                      out.images.class_names.size()));
  }
  out.weights_digest = ParametersDigest(loaded->weights->flat());
  out.weights = std::make_unique<ParameterSet>(
      loaded->model->parameters(), at::TensorOptions(types.weights).device(DeviceOf(out.accelerator.get())));
  out.weights->flat().copy_(loaded->weights->flat());
  out.model = std::move(loaded->model);
  return out;
}

absl::StatusOr<int64_t> FirstRows(const std::string& field, int64_t rows, const EvaluationSetup& setup,
                                  const ImageSet& images) {
  if (rows <= images.rows) return rows == 0 ? images.rows : rows;
  return absl::InvalidArgumentError(
      absl::StrFormat("%s is %d, but %s has %d test images; 0 means all", field, rows, setup.data, images.rows));
}

bool HasExtraBlock(const Model& model) {
  return std::ranges::any_of(model.parameters(),
                             [](const ParameterSpec& spec) { return absl::StrContains(spec.name, "sub_block1"); });
}

EvaluationRecord RecordOf(const EvaluationSetup& setup, const PreparedEvaluation& prepared,
                          const EvaluationInputs& inputs) {
  EvaluationRecord out;
  out.model.name = setup.model;
  out.model.weights_digest = prepared.weights_digest;
  out.model.activation = setup.activation;
  out.model.extra_block = HasExtraBlock(*prepared.model);
  if (const auto& normalization = prepared.model->normalization()) {
    out.model.normalization_mean = normalization->mean;
    out.model.normalization_standard_deviation = normalization->standard_deviation;
  }
  out.data = {setup.data, "test", prepared.images.digest, setup.image_size, prepared.images.class_names, inputs.ids};
  out.threat = {NormName(inputs.ball.norm), inputs.ball.radius};
  for (const EvaluationAttack& attack : inputs.attacks) out.attacks.push_back(RecordOf(attack));
  out.precision = setup.precision;
  out.device = prepared.device;
  out.seed = inputs.seed;
  out.code_version = kVersion;
  out.build_id = BuildId();
  return out;
}

absl::Status CheckFinite(const FinishedBlock& finished, const EvaluationInputs& inputs) {
  for (size_t i = 0; i < finished.outcomes.size(); ++i) {
    if (finished.outcomes[i].prediction >= 0) continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "the network's output for image %d%s is not finite: it cannot be evaluated", inputs.ids[finished.block.rows[i]],
        finished.block.stage == kCleanStage ? "" : " under attack"));
  }
  return absl::OkStatus();
}

}  // namespace ham::trainer
