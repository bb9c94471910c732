#include "worker/trainer/weights_file.h"

#include <algorithm>
#include <set>
#include <utility>

#include <ATen/ops/add.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "proto/atomic_file.h"
#include "worker/trainer/checkpoint.h"
#include "worker/trainer/class_bias.h"

namespace ham::trainer {
namespace {

constexpr absl::string_view kAverage = "average.", kParallel = "module.", kClassBiasName = "class_bias";
constexpr absl::string_view kCounter = "num_batches_tracked", kMean = "running_mean";

// The output layer's bias in a checkpoint's model: where its class bias is folded in.
absl::StatusOr<std::string> FoldedName(const Checkpoint& checkpoint) {
  const auto bias = checkpoint.state.find(std::string(kClassBiasName)), plain = checkpoint.state.find("output_bias");
  if (bias != checkpoint.state.end() && plain != checkpoint.state.end()) {
    const at::Tensor folded = at::add(plain->second, bias->second);
    for (const auto& [name, tensor] : checkpoint.model) {
      if (tensor.sizes() == folded.sizes() && at::equal(tensor, folded)) return name;
    }
  }
  return absl::DataLossError("the checkpoint does not say which tensor holds its class bias; export another one");
}

absl::StatusOr<TensorMap> AverageOf(const Checkpoint& checkpoint) {
  TensorMap out;
  for (const auto& [name, tensor] : checkpoint.state) {
    if (absl::StartsWith(name, kAverage)) out[name.substr(kAverage.size())] = tensor;
  }
  if (out.empty()) {
    return absl::FailedPreconditionError(
        "the checkpoint has no averaged weights; train with ema_decay above 0, or leave out --average");
  }
  const absl::StatusOr<std::string> output_bias = FoldedName(checkpoint);
  if (!output_bias.ok()) return output_bias.status();
  TensorMap unused;
  FoldClassBias(*output_bias, &out, &unused);
  return out;
}

}  // namespace

absl::Status ExportWeights(const std::string& directory, bool average, const std::string& file) {
  absl::StatusOr<Checkpoint> checkpoint = LoadCheckpoint(absl::StrCat(directory, "/manifest.json"));
  if (!checkpoint.ok()) return checkpoint.status();
  TensorMap tensors = checkpoint->model;
  if (average) {
    absl::StatusOr<TensorMap> averaged = AverageOf(*checkpoint);
    if (!averaged.ok()) return averaged.status();
    tensors = *std::move(averaged);
  }
  const int64_t updates = checkpoint->scalars.value("updates", int64_t{0});
  TensorMap counters;
  for (const auto& [name, tensor] : tensors) {
    if (!absl::EndsWith(name, kMean)) continue;
    const std::string layer = name.substr(0, name.size() - kMean.size());
    counters[absl::StrCat(layer, kCounter)] = at::full({}, updates, at::kLong);
  }
  tensors.merge(counters);
  const absl::StatusOr<std::string> bytes = EncodeSafetensors({std::move(tensors), {{"format", "pt"}}});
  if (!bytes.ok()) return bytes.status();
  return WriteFileAtomically(file, *bytes, 0644);
}

absl::Status ImportWeights(const std::string& file, const Model& model, ParameterSet* weights, std::string* note) {
  absl::StatusOr<Safetensors> content = ReadSafetensors(file);
  if (!content.ok()) return content.status();
  const TensorMap& in = content->tensors;
  const bool parallel = !in.empty() && std::all_of(in.begin(), in.end(), [](const auto& item) {
    return absl::StartsWith(item.first, kParallel);
  });
  if (parallel) *note = absl::StrCat(file, ": \"module.\" before all names was left out");
  std::set<std::string> known;
  for (const ParameterSpec& spec : model.parameters()) known.insert(spec.name);
  TensorMap named;
  for (const auto& [name, tensor] : in) {
    const std::string plain = parallel ? name.substr(kParallel.size()) : name;
    if (absl::EndsWith(plain, kCounter)) continue;
    if (!known.contains(plain) || plain == kClassBiasName) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": the model has no tensor ", plain, "; choose the model that the weights belong to"));
    }
    named[plain] = tensor;
  }
  UnfoldClassBias(OutputBias(model), {}, &named);
  const absl::Status status = weights->Import("", named);
  return status.ok() ? status : absl::Status(status.code(), absl::StrCat(file, ": ", status.message()));
}

}  // namespace ham::trainer
