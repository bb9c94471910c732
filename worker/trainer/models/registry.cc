// The one place that knows all models by name.
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/trainer/models/model.h"
#include "worker/trainer/models/networks.h"
#include "worker/trainer/models/small_cnn.h"

namespace ham::trainer {
namespace {

struct Entry {
  const char* name;
  const char* description;
  ImageShape images;  // usual ones
  int64_t multiple;   // height and width of images are multiples of this
  bool relu_only;     // its gradients are written out
  bool extra_block;   // can be made with it
  std::unique_ptr<Model> (*make)(const ModelOptions& options);
};

constexpr ImageShape kDigits = {1, 28, 28}, kPictures = {3, 32, 32};

template <int64_t conv1, int64_t conv2>
std::unique_ptr<Model> MakeCnn(const ModelOptions& options) {
  return MakeSmallCnn({.image = options.image,
                       .conv1 = conv1,
                       .conv2 = conv2,
                       .hidden = 128,
                       .classes = options.classes,
                       .normalization = options.normalization,
                       .compute = options.compute});
}

template <int64_t depth, int64_t widen>
std::unique_ptr<Model> MakeWide(const ModelOptions& options) {
  return MakeWideResNet(options, depth, widen);
}

constexpr Entry kModels[] = {
    {"cnn-16-32", "convolutions 3x3, ReLU and 2x2 max-pooling twice, 128 hidden units; the quickest on a CPU", kDigits,
     4, true, false, MakeCnn<16, 32>},
    {"cnn-32-64", "the same, twice as wide", kDigits, 4, true, false, MakeCnn<32, 64>},
    {"cnn-wong-kolter", "convolutions 4x4 with stride 2 twice, 100 hidden units; fits published robust MNIST weights",
     kDigits, 4, false, false, [](const ModelOptions& options) { return MakeWongKolterCnn(options); }},
    {"preact-resnet-18", "pre-activation ResNet with the final BatchNorm; HAM's network", kPictures, 1, false, false,
     [](const ModelOptions& options) { return MakePreActResNet18(options); }},
    {"resnet-18", "post-activation ResNet in its CIFAR form; that of TRADES, MART and DAFA", kPictures, 1, false, false,
     [](const ModelOptions& options) { return MakeResNet18(options); }},
    {"wrn-28-10", "WideResNet, depth 28, 10 times as wide", kPictures, 1, false, true, MakeWide<28, 10>},
    {"wrn-34-10", "WideResNet, depth 34, 10 times as wide", kPictures, 1, false, true, MakeWide<34, 10>},
};

std::string Takes(const Entry& entry) {
  return entry.multiple == 1 ? "any size" : absl::StrCat("height and width multiples of ", entry.multiple);
}

absl::Status Check(const Entry& entry, const ModelOptions& options) {
  if (options.image.height % entry.multiple != 0 || options.image.width % entry.multiple != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "train.model.name is ", entry.name, ", which takes images whose height and width are multiples of ",
        entry.multiple, "; these are ", options.image.height, " x ", options.image.width, "; choose another model"));
  }
  if (entry.relu_only && options.activation != Activation::kRelu) {
    return absl::InvalidArgumentError(
        absl::StrCat("train.model.activation is silu; ", entry.name, " has relu only; choose that or another model"));
  }
  if (options.extra_block && !entry.extra_block) {
    return absl::InvalidArgumentError(absl::StrCat("train.model.extra_block is true; ", entry.name,
                                                   " has no such block; leave it out or choose a wrn model"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeModel(const std::string& name, const ModelOptions& options) {
  std::string known;
  for (const Entry& entry : kModels) {
    absl::StrAppend(&known, known.empty() ? "" : ", ", entry.name);
    if (name != entry.name) continue;
    if (absl::Status status = Check(entry, options); !status.ok()) return status;
    return entry.make(options);
  }
  return absl::InvalidArgumentError(absl::StrCat("train.model.name is \"", name, "\"; allowed is one of: ", known));
}

std::vector<ModelInfo> KnownModels() {
  std::vector<ModelInfo> out;
  for (const Entry& entry : kModels) {
    const std::unique_ptr<Model> model = entry.make({.image = entry.images});
    out.push_back({entry.name, TrainedCount(model->parameters()), entry.images, Takes(entry), entry.description});
  }
  return out;
}

}  // namespace ham::trainer
