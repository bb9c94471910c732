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
#include "worker/trainer/network_passes.h"
#include "worker/trainer/weight_average.h"

namespace ham::trainer {
namespace {

constexpr absl::string_view kParallel = "module.", kCounter = "num_batches_tracked", kMean = "running_mean";
constexpr absl::string_view kExtraBlock = "sub_block1.";

// Where the file says what its network does to pixels first, `model` must do the same.
absl::Status CheckNormalization(const std::string& file, const Safetensors& content, const Model& model) {
  const nlohmann::json own = NormalizationJson(model);
  nlohmann::json said = nlohmann::json::object();
  for (const char* key : {"mean", "standard_deviation"}) {
    const auto found = content.metadata.find(key);
    if (found != content.metadata.end()) said[key] = nlohmann::json::parse(found->second, nullptr, false);
  }
  if (said.empty() || said == own) return absl::OkStatus();
  const auto text = [&](const std::string& key) {
    return content.metadata.contains(key) ? content.metadata.at(key) : "nothing";
  };
  return absl::InvalidArgumentError(absl::StrCat(file, ": its network subtracts ", text("mean"),
                                                 " from pixels and divides them by ", text("standard_deviation"),
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

// A file of weights, or a checkpoint's state file, as which the average in it is read.
absl::StatusOr<Safetensors> ReadWeights(const std::string& file) {
  absl::StatusOr<Safetensors> content = ReadSafetensors(file);
  if (!content.ok() || !content->metadata.contains(kScalarsKey)) return content;
  Checkpoint checkpoint;
  checkpoint.state = std::move(content->tensors);
  checkpoint.scalars = nlohmann::json::parse(content->metadata.at(kScalarsKey), nullptr, false);
  if (!checkpoint.scalars.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": metadata \"", kScalarsKey, "\" is no JSON object"));
  }
  absl::StatusOr<TensorMap> averaged = AverageOf(checkpoint);
  if (!averaged.ok())
    return absl::Status(averaged.status().code(), absl::StrCat(file, ": ", averaged.status().message()));
  return Safetensors{*std::move(averaged),
                     NormalizationText(checkpoint.scalars.value("normalization", nlohmann::json::object()))};
}

// Whether DataParallel wrote the names.
bool IsParallel(const TensorMap& tensors) {
  return !tensors.empty() && std::all_of(tensors.begin(), tensors.end(),
                                         [](const auto& item) { return absl::StartsWith(item.first, kParallel); });
}

absl::Status Import(const std::string& file, const Safetensors& content, const Model& model, ParameterSet* weights,
                    std::string* note) {
  if (absl::Status status = CheckNormalization(file, content, model); !status.ok()) return status;
  const TensorMap& in = content.tensors;
  const bool parallel = IsParallel(in);
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

absl::StatusOr<std::vector<double>> NumbersOfChannels(const std::string& file, const Safetensors& content,
                                                      const std::string& key, int64_t channels) {
  const auto text = content.metadata.find(key);
  const auto numbers =
      text == content.metadata.end() ? nlohmann::json() : nlohmann::json::parse(text->second, nullptr, false);
  bool good = numbers.is_array() && static_cast<int64_t>(numbers.size()) == channels;
  for (const auto& number : numbers) good = good && number.is_number();
  if (good) return numbers.get<std::vector<double>>();
  return absl::InvalidArgumentError(absl::StrCat(file, ": metadata \"", key, "\" is ",
                                                 text == content.metadata.end() ? "absent" : text->second,
                                                 "; it must be a list of ", channels, " numbers, one a channel"));
}

// As the file tells it, but for the number of classes.
absl::StatusOr<ModelOptions> OptionsOf(const std::string& file, const Safetensors& content, const ModelOptions& asked) {
  ModelOptions out = asked;
  for (const auto& [name, tensor] : content.tensors) out.extra_block |= absl::StrContains(name, kExtraBlock);
  if (!content.metadata.contains("mean") && !content.metadata.contains("standard_deviation")) return out;
  auto mean = NumbersOfChannels(file, content, "mean", asked.image.channels);
  if (!mean.ok()) return mean.status();
  auto deviation = NumbersOfChannels(file, content, "standard_deviation", asked.image.channels);
  if (!deviation.ok()) return deviation.status();
  for (double number : *deviation) {
    if (!(number > 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": metadata \"standard_deviation\" holds ", number, "; allowed are numbers above 0"));
    }
  }
  out.normalization = Normalization{*std::move(mean), *std::move(deviation)};
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
  const absl::StatusOr<Safetensors> content = ReadSafetensors(file);
  return content.ok() ? Import(file, *content, model, weights, note) : content.status();
}

absl::StatusOr<LoadedModel> LoadModel(const std::string& name, const std::string& file, const ModelOptions& asked) {
  const absl::StatusOr<Safetensors> content = ReadWeights(file);
  if (!content.ok()) return content.status();
  absl::StatusOr<ModelOptions> options = OptionsOf(file, *content, asked);
  if (!options.ok()) return options.status();
  auto model = MakeModel(name, *options);
  if (!model.ok()) return model.status();
  const std::string bias = absl::StrCat(IsParallel(content->tensors) ? kParallel : "", OutputBias(**model));
  if (const auto found = content->tensors.find(bias); found != content->tensors.end() && found->second.dim() == 1) {
    options->classes = found->second.size(0);
    model = MakeModel(name, *options);
    if (!model.ok()) return model.status();
  }
  LoadedModel out{*std::move(model), nullptr, {}};
  out.weights = std::make_unique<ParameterSet>(out.model->parameters());
  if (absl::Status status = Import(file, *content, *out.model, out.weights.get(), &out.note); !status.ok()) {
    return status;
  }
  return out;
}

absl::Status WriteLogits(const std::string& name, const std::string& file, const std::string& images,
                         const std::string& out) {
  const absl::StatusOr<Safetensors> content = ReadSafetensors(images);
  if (!content.ok()) return content.status();
  const auto x = content->tensors.find("images");
  if (x == content->tensors.end() || x->second.dim() != 4 || !x->second.is_floating_point()) {
    return absl::InvalidArgumentError(absl::StrCat(
        images, ": it must hold a tensor \"images\" of 4 dimensions, N, C, H, W, of floating-point numbers"));
  }
  const ImageShape shape = ShapeOf(x->second);
  const absl::StatusOr<LoadedModel> loaded = LoadModel(name, file, {.image = shape});
  if (!loaded.ok()) return loaded.status();
  at::Tensor pixels = NewImages(x->second.size(0), shape);
  pixels.copy_(x->second);
  const auto bytes = EncodeSafetensors({{{"logits", PaddedLogits(*loaded->model, *loaded->weights, pixels)}}, {}});
  return bytes.ok() ? WriteFileAtomically(out, *bytes, 0644) : bytes.status();
}

}  // namespace ham::trainer
