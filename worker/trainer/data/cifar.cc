// CIFAR binary versions: records of the label (CIFAR-100: coarse label, fine label), then the planes R, G, B of
// 32 x 32 bytes each, row by row. No header.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "worker/trainer/data/readers.h"

namespace ham::trainer {
namespace {

constexpr uint8_t kCoarseClasses = 20;

// Adds the records of one file.
absl::Status AddCifarRecords(const std::string& path, const std::string& bytes, const KnownDataSet& set,
                             LabelledImages* out) {
  const size_t plane = static_cast<size_t>(set.height * set.width), pixels = plane * 3;
  const size_t label_bytes = set.format == DataFormat::kCifar100Binary ? 2 : 1;
  const size_t record = label_bytes + pixels;
  if (bytes.empty()) return DamagedFile(path, "it is empty");
  if (bytes.size() % record != 0) {
    return DamagedFile(
        path, absl::StrCat("it has ", bytes.size(), " bytes: the record at offset ", bytes.size() / record * record,
                           " is cut, ", set.name, " has records of ", record, " bytes"));
  }
  for (size_t offset = 0; offset < bytes.size(); offset += record) {
    const auto* const labels = reinterpret_cast<const uint8_t*>(bytes.data() + offset);
    if (label_bytes == 2 && labels[0] >= kCoarseClasses) {
      return DamagedFile(path, absl::StrCat("the coarse label at offset ", offset, " is ", int{labels[0]},
                                            ", not in [0, ", int{kCoarseClasses}, ")"));
    }
    const uint8_t label = labels[label_bytes - 1];
    if (label >= set.class_names.size()) {
      return DamagedFile(path, absl::StrCat("the label at offset ", offset + label_bytes - 1, " is ", int{label},
                                            ", not in [0, ", set.class_names.size(), ")"));
    }
    out->labels.push_back(label);
    const char* const planes = bytes.data() + offset + label_bytes;
    const size_t begin = out->pixels.size();
    out->pixels.resize(begin + pixels);
    char* to = out->pixels.data() + begin;
    for (size_t pixel = 0; pixel < plane; ++pixel) {
      for (size_t channel = 0; channel < 3; ++channel) *to++ = planes[channel * plane + pixel];
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LabelledImages> ReadCifarSplit(const std::string& directory, const KnownDataSet& set, Split split,
                                              SourceDigest* digest) {
  LabelledImages out{set.channels, set.height, set.width, {}, {}};
  const std::vector<OfficialFile>& files = set.split(split).files;
  for (const OfficialFile& file : files) {
    const std::string path = directory + "/" + file.name;
    const auto bytes = ReadSourceFile(path, kMaxRows * 3074);
    if (!bytes.ok()) return bytes.status();
    out.pixels.reserve(out.pixels.size() + bytes->size());
    if (absl::Status status = AddCifarRecords(path, *bytes, set, &out); !status.ok()) return status;
    if (digest != nullptr) digest->Add(path, *bytes);
  }
  return out;
}

}  // namespace ham::trainer
