#include "worker/trainer/data/inspect.h"

#include <zlib.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <numeric>
#include <thread>
#include <utility>

#include <nlohmann/json.hpp>
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "worker/trainer/data/idx.h"
#include "worker/trainer/data/jpeg.h"
#include "worker/trainer/data/npz.h"
#include "worker/trainer/data/readers.h"

namespace ham::trainer {
namespace {

constexpr uint64_t kMaxInspectedBytes = uint64_t{1} << 32;

const char* AuthenticityName(Authenticity authenticity) {
  switch (authenticity) {
    case Authenticity::kOfficial:
      return "official";
    case Authenticity::kOfficialCounts:
      return "official_counts";
    case Authenticity::kNotOfficial:
      return "not_official";
    case Authenticity::kExtra:
      return "extra";
  }
  return "";
}

const char* AuthenticityText(Authenticity authenticity) {
  switch (authenticity) {
    case Authenticity::kOfficial:
      return "official";
    case Authenticity::kOfficialCounts:
      return "official numbers of files (no digests are published)";
    case Authenticity::kNotOfficial:
      return "not the official file";
    case Authenticity::kExtra:
      return "extra training data";
  }
  return "";
}

std::vector<int64_t> CountClasses(const std::vector<int64_t>& labels, size_t classes) {
  std::vector<int64_t> rows(classes);
  for (const int64_t label : labels) ++rows[static_cast<size_t>(label)];
  return rows;
}

Authenticity Judge(const OfficialSplit& official, const std::map<std::string, std::string>& md5_by_path,
                   const std::vector<int64_t>& class_rows) {
  const bool published = std::none_of(official.files.begin(), official.files.end(),
                                      [](const OfficialFile& file) { return file.md5.empty(); });
  if (!published) return class_rows == official.class_rows ? Authenticity::kOfficialCounts : Authenticity::kNotOfficial;
  for (const OfficialFile& file : official.files) {
    const bool found = std::any_of(md5_by_path.begin(), md5_by_path.end(),
                                   [&](const auto& entry) { return entry.second == file.md5; });
    if (!found) return Authenticity::kNotOfficial;
  }
  return Authenticity::kOfficial;
}

SplitReport InspectSplit(const std::string& directory, const KnownDataSet& set, Split split, const std::string& name) {
  SplitReport report{.name = name};
  SourceDigest digest(/*with_md5=*/true);
  const int threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const auto images = ReadSplit(directory, set, split, static_cast<int>(set.height), threads, &digest);
  report.status = images.status();
  if (!images.ok()) return report;
  report.rows = static_cast<int64_t>(images->labels.size());
  report.class_rows = CountClasses(images->labels, set.class_names.size());
  report.digest = digest.Hex();
  report.authenticity = Judge(set.split(split), digest.md5(), report.class_rows);
  return report;
}

SplitReport InspectExtra(const std::string& directory, const KnownDataSet& set, const std::string& name) {
  SplitReport report{.name = absl::StrCat("extra ", name), .authenticity = Authenticity::kExtra};
  const bool any_size = set.resizable();
  LabelledImages images{set.channels, any_size ? 0 : set.height, any_size ? 0 : set.width, {}, {}};
  SourceDigest digest;
  report.status = AppendNpz(ExtraDataPath(directory, name), set.class_names.size(), &images, &digest);
  if (!report.status.ok()) return report;
  report.rows = static_cast<int64_t>(images.labels.size());
  report.class_rows = CountClasses(images.labels, set.class_names.size());
  report.digest = digest.Hex();
  return report;
}

DataReport Describe(const std::string& path, const KnownDataSet& set) {
  return {path, set.name, FormatName(set.format), set.channels, set.height, set.width, set.class_names, {}};
}

DataReport InspectDirectory(const std::string& path, const KnownDataSet& set) {
  DataReport report = Describe(path, set);
  report.splits.push_back(InspectSplit(path, set, Split::kTrain, "train"));
  report.splits.push_back(InspectSplit(path, set, Split::kTest, "test"));
  for (const std::string& name : ListExtraData(path)) report.splits.push_back(InspectExtra(path, set, name));
  return report;
}

bool HasSources(const std::string& directory, const KnownDataSet& set) {
  for (const Split split : {Split::kTrain, Split::kTest}) {
    const auto paths = SourceFiles(directory, set, split);
    std::error_code ignored;
    if (paths.ok() && std::filesystem::exists(paths->front(), ignored)) return true;
  }
  return false;
}

int OfficialSplits(const DataReport& report) {
  return static_cast<int>(std::count_if(report.splits.begin(), report.splits.end(), [](const SplitReport& split) {
    return split.status.ok() &&
           (split.authenticity == Authenticity::kOfficial || split.authenticity == Authenticity::kOfficialCounts);
  }));
}

// The known file of that name, in which split; the first data set that has one.
const KnownDataSet* FindByFileName(const std::string& name, Split* split) {
  for (const KnownDataSet& set : KnownDataSets()) {
    for (const Split which : {Split::kTrain, Split::kTest}) {
      for (const OfficialFile& file : set.split(which).files) {
        if (file.name != name) continue;
        *split = which;
        return &set;
      }
    }
  }
  return nullptr;
}

// A data set whose official digests have that file; else null.
const KnownDataSet* FindByMd5(const std::string& md5) {
  for (const KnownDataSet& set : KnownDataSets()) {
    for (const Split which : {Split::kTrain, Split::kTest}) {
      for (const OfficialFile& file : set.split(which).files) {
        if (file.md5 == md5) return &set;
      }
    }
  }
  return nullptr;
}

// Of an IDX file, packed or not; 0 if it is too short to say.
size_t IdxDimensions(const std::string& path) {
  const gzFile file = gzopen(path.c_str(), "rb");
  unsigned char magic[4] = {};
  if (file == nullptr || gzread(file, magic, sizeof(magic)) != sizeof(magic)) magic[3] = 0;
  if (file != nullptr) gzclose(file);
  return magic[3];
}

// `plain`: the path without .gz.
absl::StatusOr<DataReport> InspectIdxFile(const std::string& path, const std::string& plain, const std::string& name) {
  SplitReport report{.name = name};
  SourceDigest digest(/*with_md5=*/true);
  const KnownDataSet* set = FindDataSet("mnist");  // shares its shape with the other one
  const bool images = IdxDimensions(path) != 1;
  const uint64_t row_bytes = static_cast<uint64_t>(set->height * set->width);
  const auto idx = images ? ReadIdx(plain, 3, kMaxRows * row_bytes) : ReadIdx(plain, 1, kMaxRows);
  report.status = idx.status();
  if (idx.ok()) {
    report.rows = idx->shape[0];
    digest.Add(path, idx->bytes);
    report.digest = digest.Hex();
    if (const KnownDataSet* official = FindByMd5(digest.md5().at(path)); official != nullptr) {
      set = official;
      report.authenticity = Authenticity::kOfficial;
    }
    if (!images) {
      std::vector<int64_t> labels;
      for (size_t i = idx->data_offset; i < idx->bytes.size(); ++i) {
        labels.push_back(static_cast<unsigned char>(idx->bytes[i]));
        if (static_cast<size_t>(labels.back()) < set->class_names.size()) continue;
        report.status = DamagedFile(path, absl::StrCat("the label at offset ", i, " is ", labels.back(),
                                                       ", not in [0, ", set->class_names.size(), ")"));
        break;
      }
      if (report.status.ok()) report.class_rows = CountClasses(labels, set->class_names.size());
    }
  }
  DataReport out = Describe(path, *set);
  if (report.authenticity != Authenticity::kOfficial) out.name = "mnist or fashion-mnist";
  out.splits.push_back(std::move(report));
  return out;
}

absl::StatusOr<DataReport> InspectJpeg(const std::string& path, const std::string& name, const std::string& bytes) {
  const KnownDataSet& set = *FindDataSet("imagenette");
  DataReport out = Describe(path, set);
  SplitReport report{.name = name};
  JpegDecoder decoder;
  const auto size = decoder.CheckHeader(path, bytes);
  report.status = size.status();
  if (size.ok()) {
    out.height = size->height;
    out.width = size->width;
    std::vector<uint8_t> pixels(static_cast<size_t>(set.height * set.width * 3));
    report.status = decoder.Decode(path, bytes, static_cast<int>(set.height), pixels.data());
    report.rows = 1;
    SourceDigest digest;
    digest.Add(path, bytes);
    report.digest = digest.Hex();
  }
  out.splits.push_back(std::move(report));
  return out;
}

absl::StatusOr<DataReport> InspectFile(const std::string& path) {
  const std::string directory = std::filesystem::path(path).parent_path().string();
  const std::string name = std::filesystem::path(path).filename().string();
  const auto bytes = ReadSourceFile(path, kMaxInspectedBytes);
  if (!bytes.ok()) return bytes.status();
  if (bytes->starts_with("\xff\xd8")) return InspectJpeg(path, name, *bytes);
  const bool packed = bytes->starts_with("\x1f\x8b");
  const std::string plain = path.ends_with(".gz") ? path.substr(0, path.size() - 3) : path;
  if (packed || bytes->starts_with(std::string("\0\0\x08", 3))) return InspectIdxFile(path, plain, name);
  Split split = Split::kTrain;
  const KnownDataSet* known = FindByFileName(name, &split);
  if (known == nullptr && bytes->starts_with("MATLAB 5.0")) known = FindDataSet("svhn");
  if (known == nullptr && !bytes->empty() && bytes->size() % 3073 == 0) known = FindDataSet("cifar-10");
  if (known == nullptr && !bytes->empty() && bytes->size() % 3074 == 0) known = FindDataSet("cifar-100");
  if (known == nullptr || known->format == DataFormat::kIdx || known->format == DataFormat::kImageFolder) {
    return absl::InvalidArgumentError(absl::StrCat(path,
                                                   " is no file of a known data set: neither IDX, CIFAR binary, "
                                                   "MAT 5 nor JPEG; `ham-trainer data list` shows what is known"));
  }
  KnownDataSet alone = *known;  // a split of this file only
  OfficialSplit& only = split == Split::kTrain ? alone.train : alone.test;
  const auto official =
      std::find_if(only.files.begin(), only.files.end(), [&](const OfficialFile& file) { return file.name == name; });
  only.files = {{name, official == only.files.end() ? "unknown" : official->md5}};
  DataReport report = Describe(path, alone);
  report.splits.push_back(InspectSplit(directory.empty() ? "." : directory, alone, split, name));
  return report;
}

// "500 a class", or the rows of each.
std::string ClassRowsText(const DataReport& report, const std::vector<int64_t>& rows) {
  if (std::all_of(rows.begin(), rows.end(), [&](int64_t n) { return n == rows[0]; })) {
    return absl::StrCat(rows[0], " rows a class");
  }
  std::vector<std::string> parts;
  for (size_t i = 0; i < rows.size(); ++i) parts.push_back(absl::StrCat(report.class_names[i], " ", rows[i]));
  return absl::StrJoin(parts, ", ");
}

std::string AugmentationText(const AugmentationOptions& options) {
  std::vector<std::string> parts;
  if (options.crop_padding > 0) {
    parts.push_back(absl::StrCat("crop, ", options.padding == Padding::kZero ? "zero" : "reflect", " padding ",
                                 options.crop_padding));
  }
  if (options.flip) parts.push_back("flip");
  if (options.cutout > 0) parts.push_back(absl::StrCat("cutout ", options.cutout));
  return parts.empty() ? "none" : absl::StrJoin(parts, "; ");
}

int64_t SumOf(const std::vector<int64_t>& rows) { return std::accumulate(rows.begin(), rows.end(), int64_t{0}); }

}  // namespace

absl::StatusOr<DataReport> InspectPath(const std::string& given) {
  std::string path = given;
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  std::error_code ignored;
  if (std::filesystem::is_regular_file(path, ignored)) return InspectFile(path);
  if (!std::filesystem::is_directory(path, ignored)) {
    return absl::NotFoundError(absl::StrCat("there is nothing at ", path));
  }
  if (const auto* named = FindDataSet(std::filesystem::path(path).filename().string()); named != nullptr) {
    return InspectDirectory(path, *named);
  }
  // Of data sets with the same file names the one whose digests fit.
  absl::StatusOr<DataReport> best = absl::InvalidArgumentError(
      absl::StrCat(path, " has no split of a known data set; `ham-trainer data list` shows what is known"));
  for (const KnownDataSet& set : KnownDataSets()) {
    if (!HasSources(path, set)) continue;
    DataReport report = InspectDirectory(path, set);
    if (!best.ok() || OfficialSplits(report) > OfficialSplits(*best)) best = std::move(report);
  }
  return best;
}

std::string ToText(const DataReport& report) {
  std::string text =
      absl::StrFormat("%s  %s  %d x %d x %d, %d classes  %s\n", report.name, report.format, report.channels,
                      report.height, report.width, report.class_names.size(), report.path);
  for (const SplitReport& split : report.splits) {
    if (!split.status.ok()) {
      absl::StrAppend(&text, "  ", split.name, "  unusable: ", std::string(split.status.message()), "\n");
      continue;
    }
    absl::StrAppend(&text, "  ", split.name, "  ", split.rows, " rows  ", AuthenticityText(split.authenticity),
                    "  sha256 ", split.digest, "\n");
    if (!split.class_rows.empty()) {
      absl::StrAppend(&text, "    ", ClassRowsText(report, split.class_rows), "\n");
    }
  }
  return text;
}

std::string ToJson(const DataReport& report) {
  nlohmann::json json = {{"path", report.path},
                         {"name", report.name},
                         {"format", report.format},
                         {"channels", report.channels},
                         {"height", report.height},
                         {"width", report.width},
                         {"splits", nlohmann::json::array()}};
  for (const SplitReport& split : report.splits) {
    nlohmann::json& entry = json["splits"].emplace_back(nlohmann::json{{"name", split.name}});
    if (!split.status.ok()) {
      entry["error"] = std::string(split.status.message());
      continue;
    }
    entry["rows"] = split.rows;
    entry["digest"] = split.digest;
    entry["authenticity"] = AuthenticityName(split.authenticity);
    entry["class_rows"] = nlohmann::json::object();
    for (size_t i = 0; i < split.class_rows.size(); ++i)
      entry["class_rows"][report.class_names[i]] = split.class_rows[i];
  }
  return json.dump() + "\n";
}

std::string KnownDataSetsAsText() {
  std::string text = absl::StrFormat("%-14s %-32s %-14s %8s %8s %8s  %s\n", "name", "format", "C x H x W", "classes",
                                     "train", "test", "augmentation");
  for (const KnownDataSet& set : KnownDataSets()) {
    absl::StrAppendFormat(&text, "%-14s %-32s %-14s %8d %8d %8d  %s\n", set.name, FormatName(set.format),
                          absl::StrCat(set.channels, " x ", set.height, " x ", set.width), set.class_names.size(),
                          SumOf(set.train.class_rows), SumOf(set.test.class_rows), AugmentationText(set.augmentation));
  }
  return text;
}

std::string KnownDataSetsAsJson() {
  nlohmann::json list = nlohmann::json::array();
  for (const KnownDataSet& set : KnownDataSets()) {
    list.push_back({{"name", set.name},
                    {"format", FormatName(set.format)},
                    {"channels", set.channels},
                    {"height", set.height},
                    {"width", set.width},
                    {"resizable", set.resizable()},
                    {"class_names", set.class_names},
                    {"train_rows", SumOf(set.train.class_rows)},
                    {"test_rows", SumOf(set.test.class_rows)},
                    {"mean", set.normalization.mean},
                    {"standard_deviation", set.normalization.standard_deviation},
                    {"augmentation", AugmentationText(set.augmentation)}});
  }
  return list.dump() + "\n";
}

std::string DownloadsAsText(const KnownDataSet& set) {
  std::string text;
  for (const Download& file : set.downloads) {
    absl::StrAppend(&text, file.url, " ", file.md5, " ", file.folder.empty() ? "-" : file.folder, "\n");
  }
  return text;
}

}  // namespace ham::trainer
