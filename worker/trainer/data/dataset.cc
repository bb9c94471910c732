#include "worker/trainer/data/dataset.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/sha256.h"
#include "worker/trainer/data/idx.h"

namespace ham::trainer {
namespace {

constexpr uint64_t kMaxRows = 10'000'000;

struct Files {
  std::string images;
  std::string labels;
};

// A data set in IDX files. This table is the one place that knows them.
struct DataSet {
  std::string name;
  std::string directory;  // under the data root
  Files train, test;
  uint32_t height, width;
  std::vector<std::string> class_names;
};

const std::vector<DataSet>& KnownDataSets() {
  static const auto& known = *new std::vector<DataSet>{
      {"fashion-mnist",
       "fashion-mnist",
       {"train-images-idx3-ubyte", "train-labels-idx1-ubyte"},
       {"t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"},
       28,
       28,
       {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"}},
  };
  return known;
}

std::string Directory(const std::string& data_root, const DataSet& set) {
  return (std::filesystem::path(data_root) / set.directory).string();
}

absl::Status DamagedFile(const std::string& path, const std::string& what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what, "; fetch the data set again"));
}

absl::Status CheckShapes(const std::string& directory, const Files& files, const DataSet& set, const IdxFile& images,
                         const IdxFile& labels) {
  const std::string image_path = directory + "/" + files.images;
  if (images.shape[1] != set.height || images.shape[2] != set.width) {
    return DamagedFile(image_path, absl::StrCat("its images are ", images.shape[1], " x ", images.shape[2], " pixels, ",
                                                set.name, " has ", set.height, " x ", set.width));
  }
  if (images.shape[0] == 0) return DamagedFile(image_path, "it holds no images");
  if (images.shape[0] != labels.shape[0]) {
    return DamagedFile(directory + "/" + files.labels,
                       absl::StrCat("it holds ", labels.shape[0], " labels for ", images.shape[0], " images"));
  }
  return absl::OkStatus();
}

// Reads and checks one split; adds its unpacked files to `digest` where there is one.
absl::StatusOr<ImageSet> ReadSplit(const std::string& directory, const DataSet& set, const Files& files,
                                   Sha256* digest) {
  const uint64_t pixels = uint64_t{set.height} * set.width;
  const std::string label_path = directory + "/" + files.labels;
  const absl::StatusOr<IdxFile> images = ReadIdx(directory + "/" + files.images, 3, kMaxRows * pixels);
  if (!images.ok()) return images.status();
  const absl::StatusOr<IdxFile> labels = ReadIdx(label_path, 1, kMaxRows);
  if (!labels.ok()) return labels.status();
  if (absl::Status status = CheckShapes(directory, files, set, *images, *labels); !status.ok()) return status;
  ImageSet result;
  result.rows = images->shape[0];
  result.channels = 1;
  result.height = set.height;
  result.width = set.width;
  result.class_names = set.class_names;
  result.images.assign(images->bytes.begin() + static_cast<std::ptrdiff_t>(images->data_offset), images->bytes.end());
  for (size_t i = labels->data_offset; i < labels->bytes.size(); ++i) {
    const auto label = static_cast<unsigned char>(labels->bytes[i]);
    if (label >= set.class_names.size()) {
      return DamagedFile(label_path, absl::StrCat("label ", int{label}, " of row ", i - labels->data_offset,
                                                  " is not in [0, ", set.class_names.size(), ")"));
    }
    result.labels.push_back(label);
  }
  if (digest != nullptr) {
    digest->Update(images->bytes);
    digest->Update(labels->bytes);
  }
  return result;
}

DataSetInfo Inspect(const std::string& directory, const DataSet& set) {
  DataSetInfo info{set.name, directory, "", absl::OkStatus()};
  Sha256 digest;
  for (const Files* files : {&set.train, &set.test}) {
    info.status = ReadSplit(directory, set, *files, &digest).status();
    if (!info.status.ok()) return info;
  }
  info.digest = digest.Hex();
  return info;
}

}  // namespace

std::vector<std::string> DataSetNames() {
  std::vector<std::string> names;
  for (const DataSet& set : KnownDataSets()) names.push_back(set.name);
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<ImageSet> LoadDataSet(const std::string& data_root, const std::string& name, Split split) {
  for (const DataSet& set : KnownDataSets()) {
    if (set.name != name) continue;
    const std::string directory = Directory(data_root, set);
    std::error_code ignored;
    if (!std::filesystem::is_directory(directory, ignored)) {
      return absl::NotFoundError(absl::StrCat("data set \"", name,
                                              "\" is not under the data root: there is no directory ", directory,
                                              "; install it or name another --data-root"));
    }
    return ReadSplit(directory, set, split == Split::kTrain ? set.train : set.test, nullptr);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("data set \"", name, "\" is unknown: allowed are ", absl::StrJoin(DataSetNames(), ", ")));
}

std::vector<DataSetInfo> InspectDataSets(const std::string& data_root) {
  std::vector<DataSetInfo> result;
  for (const DataSet& set : KnownDataSets()) {
    const std::string directory = Directory(data_root, set);
    std::error_code ignored;
    if (std::filesystem::is_directory(directory, ignored)) result.push_back(Inspect(directory, set));
  }
  return result;
}

}  // namespace ham::trainer
