#include "worker/trainer/weights_file.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include <ATen/ops/full.h>

#include <nlohmann/json.hpp>
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "proto/atomic_file.h"
#include "worker/trainer/checkpoint.h"
#include "worker/trainer/class_bias.h"
#include "worker/trainer/weight_average.h"

namespace ham::trainer {
namespace {

constexpr absl::string_view kParallel = "module.", kCounter = "num_batches_tracked", kMean = "running_mean";

// As ExportWeights writes them into the metadata.
std::map<std::string, std::string> NormalizationText(const nlohmann::json& normalization) {
  std::map<std::string, std::string> out;
  for (const auto& [key, numbers] : normalization.items()) out[key] = numbers.dump();
  return out;
}

// Where the file says what its network does to pixels first, `model` must do the same.
absl::Status CheckNormalization(const std::string& file, const Safetensors& content, const Model& model) {
  std::map<std::string, std::string> own = NormalizationText(NormalizationJson(model)), said;
  for (const char* key : {"mean", "standard_deviation"}) {
    if (const auto found = content.metadata.find(key); found != content.metadata.end()) said.insert(*found);
  }
  if (said.empty() || said == own) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(file, ": its network subtracts ", said["mean"],
                                                 " from pixels and divides them by ", said["standard_deviation"],
                                                 " first; this one does ", own.empty() ? "not" : "with other numbers",
                                                 "; set train.model.normalization as it was for these weights"));
}

absl::StatusOr<TensorMap> AverageOf(const Checkpoint& checkpoint) {
  TensorMap out;
  for (const auto& [name, tensor] : checkpoint.state) {
    if (absl::StartsWith(name, kAveragePrefix)) out[name.substr(std::size(kAveragePrefix) - 1)] = tensor;
  }
  if (out.empty()) {
    return absl::FailedPreconditionError(
        "the checkpoint has no averaged weights; train with ema_decay above 0, or leave out --average");
  }
  const auto stored = checkpoint.scalars.find("output_bias");
  const std::string output_bias =
      stored != checkpoint.scalars.end() && stored->is_string() ? stored->get<std::string>() : "";
  if (!out.contains(output_bias) || !out.contains(kClassBiasName)) {
    return absl::DataLossError("the checkpoint does not say which tensor holds its class bias; export another one");
  }
  TensorMap unused;
  FoldClassBias(output_bias, &out, &unused);
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
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  if (const auto found = checkpoint->scalars.find("normalization"); found != checkpoint->scalars.end()) {
    metadata.merge(NormalizationText(*found));
  }
  const absl::StatusOr<std::string> bytes = EncodeSafetensors({std::move(tensors), std::move(metadata)});
  if (!bytes.ok()) return bytes.status();
  return WriteFileAtomically(file, *bytes, 0644);
}

absl::Status ImportWeights(const std::string& file, const Model& model, ParameterSet* weights, std::string* note) {
  absl::StatusOr<Safetensors> content = ReadSafetensors(file);
  if (!content.ok()) return content.status();
  if (absl::Status status = CheckNormalization(file, *content, model); !status.ok()) return status;
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
