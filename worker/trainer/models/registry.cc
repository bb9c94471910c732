// The one place that knows all models by name.
#include <functional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/trainer/models/model.h"
#include "worker/trainer/models/networks.h"
#include "worker/trainer/models/small_cnn.h"

namespace ham::trainer {
namespace {

struct Entry {
  const char* name;
  int64_t multiple;  // height and width of images are multiples of this
  std::unique_ptr<Model> (*make)(const ModelOptions& options);
};

template <int64_t conv1, int64_t conv2>
std::unique_ptr<Model> MakeCnn(const ModelOptions& options) {
  return MakeSmallCnn(
      {.image = options.image, .conv1 = conv1, .conv2 = conv2, .hidden = 128, .classes = options.classes});
}

constexpr Entry kModels[] = {
    {"cnn-16-32", 4, MakeCnn<16, 32>},
    {"cnn-32-64", 4, MakeCnn<32, 64>},
    {"preact-resnet-18", 1, [](const ModelOptions& options) { return MakePreActResNet18(options); }},
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeModel(const std::string& name, const ModelOptions& options) {
  std::string known;
  for (const Entry& entry : kModels) {
    absl::StrAppend(&known, known.empty() ? "" : ", ", entry.name);
    if (name != entry.name) continue;
    if (options.image.height % entry.multiple != 0 || options.image.width % entry.multiple != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "train.model.name is ", name, ", which takes images whose height and width are multiples of ", entry.multiple,
          "; these are ", options.image.height, " x ", options.image.width));
    }
    return entry.make(options);
  }
  return absl::InvalidArgumentError(absl::StrCat("train.model.name is \"", name, "\"; allowed is one of: ", known));
}

}  // namespace ham::trainer
