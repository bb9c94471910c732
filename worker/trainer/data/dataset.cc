#include "worker/trainer/data/dataset.h"

#include <algorithm>
#include <filesystem>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/extra_data_name.h"
#include "proto/sha256.h"
#include "worker/trainer/data/data_cache.h"
#include "worker/trainer/data/npz.h"
#include "worker/trainer/data/readers.h"

namespace ham::trainer {
namespace {

std::string Directory(const std::string& data_root, const KnownDataSet& set) {
  return (std::filesystem::path(data_root) / set.name).string();
}

bool IsDirectory(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

// InvalidArgument or NotFound unless there is extra data of that name.
absl::Status CheckExtra(const std::string& directory, const KnownDataSet& set, const std::string& extra) {
  if (!IsExtraDataName(extra)) {
    return absl::InvalidArgumentError(
        absl::StrCat("extra is \"", extra, "\"; allowed is a name, not a path: ", kExtraDataNameRule));
  }
  const std::vector<std::string> present = ListExtraData(directory);
  if (std::binary_search(present.begin(), present.end(), extra)) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("data set \"", set.name, "\" has no extra data \"", extra,
                                          "\": there is no file ", ExtraDataPath(directory, extra), "; there is ",
                                          present.empty() ? "none" : absl::StrJoin(present, ", ")));
}

absl::StatusOr<LabelledImages> ReadWithExtra(const std::string& directory, const KnownDataSet& set, Split split,
                                             const LoadOptions& options, SourceDigest* digest) {
  auto images = ReadSplit(directory, set, split, options.image_size, options.threads, digest);
  if (!images.ok() || options.extra.empty()) return images;
  const absl::Status status =
      AppendNpz(ExtraDataPath(directory, options.extra), set.class_names.size(), &*images, digest);
  if (!status.ok()) return status;
  return images;
}

// Fills in what 0 stands for.
absl::StatusOr<LoadOptions> Complete(const KnownDataSet& set, LoadOptions options) {
  if (options.threads == 0) options.threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  if (options.image_size == 0) options.image_size = static_cast<int>(set.height);
  const int least = set.resizable() ? kMinImageSize : static_cast<int>(set.height);
  const int most = set.resizable() ? kMaxImageSize : static_cast<int>(set.height);
  if (options.image_size >= least && options.image_size <= most) return options;
  return absl::InvalidArgumentError(absl::StrCat("image_size is ", options.image_size, "; data set \"", set.name,
                                                 "\" allows ", least, " to ", most, ", or 0 for ", set.height));
}

DataSetInfo Inspect(const std::string& directory, const KnownDataSet& set) {
  DataSetInfo info{set.name, directory, "", absl::OkStatus()};
  SourceDigest digest;
  const auto options = Complete(set, {});
  for (const Split split : {Split::kTrain, Split::kTest}) {
    info.status = ReadSplit(directory, set, split, options->image_size, options->threads, &digest).status();
    if (!info.status.ok()) return info;
  }
  info.digest = digest.Hex();
  return info;
}

}  // namespace

std::vector<std::string> DataSetNames() {
  std::vector<std::string> names;
  for (const KnownDataSet& set : KnownDataSets()) names.push_back(set.name);
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<ImageSet> LoadDataSet(const std::string& data_root, const std::string& name, Split split,
                                     const LoadOptions& options) {
  const KnownDataSet* const set = FindDataSet(name);
  if (set == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("data set \"", name, "\" is unknown: allowed are ", absl::StrJoin(DataSetNames(), ", ")));
  }
  const auto complete = Complete(*set, options);
  if (!complete.ok()) return complete.status();
  const std::string directory = Directory(data_root, *set);
  if (!IsDirectory(directory)) {
    return absl::NotFoundError(absl::StrCat("data set \"", name,
                                            "\" is not under the data root: there is no directory ", directory,
                                            "; install it or name another --data-root"));
  }
  auto sources = SourceFiles(directory, *set, split);
  if (!sources.ok()) return sources.status();
  std::string part = split == Split::kTrain ? "train" : "test";
  if (!options.extra.empty()) {
    if (absl::Status status = CheckExtra(directory, *set, options.extra); !status.ok()) return status;
    sources->push_back(ExtraDataPath(directory, options.extra));
    absl::StrAppend(&part, "+", options.extra);
  }
  const auto identity = FileIdentity(*sources);
  if (!identity.ok()) return identity.status();
  const int64_t size = complete->image_size;
  const PreparedKey key{absl::StrCat(name, "/", part), set->channels, size, size, set->class_names, *identity};
  return LoadThroughCache(
      complete->cache_directory.empty() ? DefaultCacheDirectory(data_root) : complete->cache_directory,
      absl::StrCat(name, "-", part, "-", size, "-", Sha256Hex(directory).substr(0, 8), ".prepared"), key,
      [&](SourceDigest* digest) { return ReadWithExtra(directory, *set, split, *complete, digest); }, complete->tick);
}

std::vector<DataSetInfo> InspectDataSets(const std::string& data_root) {
  std::vector<DataSetInfo> result;
  for (const KnownDataSet& set : KnownDataSets()) {
    const std::string directory = Directory(data_root, set);
    if (IsDirectory(directory)) result.push_back(Inspect(directory, set));
  }
  return result;
}

}  // namespace ham::trainer
