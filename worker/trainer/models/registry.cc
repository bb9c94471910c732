// The one place that knows all models by name.
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/trainer/models/model.h"
#include "worker/trainer/models/small_cnn.h"

namespace ham::trainer {
namespace {

struct Entry {
  const char* name;
  int64_t conv1, conv2, hidden;
};
constexpr Entry kModels[] = {{"cnn-16-32", 16, 32, 128}, {"cnn-32-64", 32, 64, 128}};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeModel(const std::string& name, const ImageShape& shape, int64_t classes) {
  std::string known;
  for (const Entry& entry : kModels) {
    absl::StrAppend(&known, known.empty() ? "" : ", ", entry.name);
    if (name != entry.name) continue;
    if (shape.height % 4 != 0 || shape.width % 4 != 0) {
      return absl::InvalidArgumentError(absl::StrCat("train.model.name is ", name,
                                                     ", which takes images whose height and width are multiples of 4; "
                                                     "these are ",
                                                     shape.height, " x ", shape.width));
    }
    return MakeSmallCnn(
        {.image = shape, .conv1 = entry.conv1, .conv2 = entry.conv2, .hidden = entry.hidden, .classes = classes});
  }
  return absl::InvalidArgumentError(absl::StrCat("train.model.name is \"", name, "\"; allowed is one of: ", known));
}

}  // namespace ham::trainer
