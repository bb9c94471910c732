#include "worker/trainer/data/readers.h"

#include <utility>

namespace ham::trainer {

absl::StatusOr<std::vector<std::string>> SourceFiles(const std::string& directory, const KnownDataSet& set,
                                                     Split split) {
  if (set.format == DataFormat::kImageFolder) return ListImageFolder(directory, set, split);
  std::vector<std::string> paths;
  for (const OfficialFile& file : set.split(split).files) {
    paths.push_back(directory + "/" + file.name);
    if (set.format != DataFormat::kIdx) continue;
    auto found = FindIdxFile(paths.back());
    if (!found.ok()) return found.status();
    paths.back() = *std::move(found);
  }
  return paths;
}

absl::StatusOr<LabelledImages> ReadSplit(const std::string& directory, const KnownDataSet& set, Split split,
                                         int image_size, int threads, SourceDigest* digest) {
  switch (set.format) {
    case DataFormat::kIdx:
      return ReadIdxSplit(directory, set, split, digest);
    case DataFormat::kCifar10Binary:
    case DataFormat::kCifar100Binary:
      return ReadCifarSplit(directory, set, split, digest);
    case DataFormat::kMat5:
      return ReadMat5Split(directory, set, split, digest);
    case DataFormat::kImageFolder:
      return ReadImageFolderSplit(directory, set, split, image_size, threads, digest);
  }
  return absl::InternalError("unknown format");
}

}  // namespace ham::trainer
