#include "worker/trainer/data/npz.h"

#include <sys/stat.h>
#include <zip.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/extra_data_name.h"
#include "proto/utf8.h"
#include "worker/trainer/data/dataset.h"
#include "worker/trainer/data/npy_header.h"

namespace ham::trainer {
namespace {

constexpr uint64_t kReadBytes = 1 << 24;
constexpr uint64_t kMostShownNames = 8;

struct ZipClose {
  void operator()(zip_t* archive) const { zip_discard(archive); }
  void operator()(zip_file_t* file) const { zip_fclose(file); }
};
using Archive = std::unique_ptr<zip_t, ZipClose>;

absl::Status BadArray(const std::string& name, const std::string& what) {
  return absl::DataLossError(absl::StrCat("array \"", name, "\": ", what));
}

// A file of the archive that is an array: its header is read, its elements come next.
class StoredArray {
 public:
  static absl::StatusOr<StoredArray> Open(zip_t* archive, uint64_t archive_bytes, const std::string& name);

  const std::string& name() const { return name_; }
  const NpyHeader& header() const { return header_; }
  uint64_t element_bytes() const { return size_ - header_.bytes; }
  // All elements, once; then the checksum holds.
  absl::Status Read(char* out);

 private:
  // False at an error or an early end.
  bool ReadExactly(char* out, uint64_t bytes);
  absl::Status Unreadable() const { return BadArray(name_, "it is cut, or its checksum is wrong"); }

  std::string name_;
  std::unique_ptr<zip_file_t, ZipClose> file_;
  uint64_t size_ = 0;
  std::string head_;
  NpyHeader header_;
};

// Of the only file NAME.npy.
absl::StatusOr<uint64_t> FindArray(zip_t* archive, const std::string& name) {
  const auto entries = static_cast<uint64_t>(std::max<zip_int64_t>(0, zip_get_num_entries(archive, 0)));
  std::vector<uint64_t> found;
  std::vector<std::string> names;
  for (uint64_t i = 0; i < entries; ++i) {
    const char* const entry = zip_get_name(archive, i, ZIP_FL_ENC_RAW);
    if (entry == nullptr) continue;
    if (name + ".npy" == entry) found.push_back(i);
    if (names.size() < kMostShownNames) names.push_back(Shown(entry, 64));
  }
  if (found.size() == 1) return found[0];
  if (found.size() > 1) return BadArray(name, "there are two of that name");
  return BadArray(name, absl::StrCat("there is none; the archive holds ", entries, " files",
                                     names.empty() ? "" : ", among them ", absl::StrJoin(names, ", ")));
}

// Whether a packed size can be that of a file of `entry.size` bytes, in an archive of that size.
bool SizeCanBe(const zip_stat_t& entry, uint64_t archive_bytes) {
  if (entry.comp_size > archive_bytes) return false;
  return entry.comp_method == ZIP_CM_STORE ? entry.size == entry.comp_size
                                           : entry.size <= entry.comp_size * kMostDeflated;
}

absl::StatusOr<StoredArray> StoredArray::Open(zip_t* archive, uint64_t archive_bytes, const std::string& name) {
  const auto index = FindArray(archive, name);
  if (!index.ok()) return index.status();
  constexpr uint64_t kNeeded = ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
  zip_stat_t entry;
  zip_stat_init(&entry);
  if (zip_stat_index(archive, *index, 0, &entry) != 0 || (entry.valid & kNeeded) != kNeeded) {
    return BadArray(name, "its entry in the archive is incomplete");
  }
  if (entry.encryption_method != ZIP_EM_NONE ||
      (entry.comp_method != ZIP_CM_STORE && entry.comp_method != ZIP_CM_DEFLATE)) {
    return BadArray(name, "it is encrypted or packed by a method other than deflate");
  }
  if (!SizeCanBe(entry, archive_bytes)) {
    return BadArray(name, absl::StrCat("its entry says ", entry.size, " bytes, packed ", entry.comp_size,
                                       ", which cannot be in a file of ", archive_bytes));
  }
  StoredArray out;
  out.name_ = name;
  out.size_ = entry.size;
  out.file_.reset(zip_fopen_index(archive, *index, 0));
  if (out.file_ == nullptr) return out.Unreadable();
  out.head_.resize(std::min(out.size_, kMaxNpyHeaderBytes));
  if (!out.ReadExactly(out.head_.data(), out.head_.size())) return out.Unreadable();
  auto header = ParseNpyHeader(out.head_);
  if (!header.ok()) return BadArray(name, std::string(header.status().message()));
  out.header_ = *std::move(header);
  return out;
}

bool StoredArray::ReadExactly(char* out, uint64_t bytes) {
  while (bytes > 0) {
    const zip_int64_t got = zip_fread(file_.get(), out, std::min(bytes, kReadBytes));
    if (got <= 0) return false;
    out += got;
    bytes -= static_cast<uint64_t>(got);
  }
  return true;
}

absl::Status StoredArray::Read(char* out) {
  const std::string_view begun = std::string_view(head_).substr(header_.bytes);
  std::memcpy(out, begun.data(), begun.size());
  if (!ReadExactly(out + begun.size(), element_bytes() - begun.size())) return Unreadable();
  char more;
  return zip_fread(file_.get(), &more, 1) == 0 ? absl::OkStatus() : Unreadable();  // checks the checksum
}

std::string ShapeText(const std::vector<uint64_t>& shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

// The number of images of `array`, which must be of the shape of `images`; takes a shape that is left open.
absl::StatusOr<uint64_t> CheckImages(const StoredArray& array, LabelledImages* images) {
  const NpyHeader& header = array.header();
  if (header.type != "|u1") {
    return BadArray(array.name(),
                    absl::StrCat("its elements are of type \"", Shown(header.type), "\"; allowed is |u1 (uint8)"));
  }
  std::vector<uint64_t> shape = header.shape;
  if (shape.size() == 3 && images->channels == 1) shape.push_back(1);
  if (images->height == 0 && shape.size() == 4 && shape[1] > 0 && shape[1] <= kMaxImageSize) {
    images->height = images->width = static_cast<int64_t>(shape[1]);
  }
  if (shape.size() != 4 || shape[1] != static_cast<uint64_t>(images->height) ||
      shape[2] != static_cast<uint64_t>(images->width) || shape[3] != static_cast<uint64_t>(images->channels)) {
    return BadArray(array.name(),
                    absl::StrCat("its shape is ", ShapeText(header.shape), "; images of the data set are ",
                                 images->height, " x ", images->width, " x ", images->channels));
  }
  const uint64_t most = kMaxRows - images->labels.size();
  if (shape[0] == 0 || shape[0] > most) {
    return BadArray(array.name(), absl::StrCat("it has ", shape[0], " rows; allowed is 1 to ", most));
  }
  const uint64_t bytes = shape[0] * shape[1] * shape[2] * shape[3];
  if (bytes == array.element_bytes()) return shape[0];
  return BadArray(array.name(), absl::StrCat("its shape ", ShapeText(header.shape), " takes ", bytes, " bytes, it has ",
                                             array.element_bytes()));
}

// How integers are stored. `bytes` 0: these are none, or not little-endian.
struct IntegerType {
  uint64_t bytes = 0;
  bool has_sign = false;
};

IntegerType IntegerTypeOf(const std::string& type) {
  for (const uint64_t bytes : {1, 2, 4, 8}) {
    for (const bool has_sign : {false, true}) {
      if (type == absl::StrCat(bytes == 1 ? "|" : "<", has_sign ? "i" : "u", bytes)) return {bytes, has_sign};
    }
  }
  return {};
}

absl::Status CheckLabels(const StoredArray& array, uint64_t rows) {
  const NpyHeader& header = array.header();
  const IntegerType type = IntegerTypeOf(header.type);
  if (type.bytes == 0) {
    return BadArray(array.name(), absl::StrCat("its elements are of type \"", Shown(header.type),
                                               "\"; allowed are integers, little-endian: <i8, <i4, |u1 and so on"));
  }
  if (header.shape == std::vector<uint64_t>{rows} && array.element_bytes() == rows * type.bytes) {
    return absl::OkStatus();
  }
  return BadArray(array.name(), absl::StrCat("its shape is ", ShapeText(header.shape), " in ", array.element_bytes(),
                                             " bytes; there are ", rows, " images"));
}

absl::Status AppendLabels(const StoredArray& array, std::string_view stored, size_t classes,
                          std::vector<int64_t>* labels) {
  const IntegerType type = IntegerTypeOf(array.header().type);
  const uint64_t rows = stored.size() / type.bytes, unused_bits = 64 - 8 * type.bytes;
  labels->reserve(labels->size() + rows);
  for (uint64_t row = 0; row < rows; ++row) {
    uint64_t number = 0;
    std::memcpy(&number, stored.data() + row * type.bytes, type.bytes);
    if (number >= classes) {
      const std::string shown = type.has_sign ? absl::StrCat(static_cast<int64_t>(number << unused_bits) >> unused_bits)
                                              : absl::StrCat(number);
      return BadArray(array.name(), absl::StrCat("row ", row, " has label ", shown, "; allowed is 0 to ", classes - 1));
    }
    labels->push_back(static_cast<int64_t>(number));
  }
  return absl::OkStatus();
}

absl::Status AppendArchive(zip_t* archive, uint64_t archive_bytes, size_t classes, LabelledImages* images,
                           SourceDigest* digest, const std::string& path) {
  auto pixels = StoredArray::Open(archive, archive_bytes, "image");
  if (!pixels.ok()) return pixels.status();
  const auto rows = CheckImages(*pixels, images);
  if (!rows.ok()) return rows.status();
  auto labels = StoredArray::Open(archive, archive_bytes, "label");
  if (!labels.ok()) return labels.status();
  if (absl::Status status = CheckLabels(*labels, *rows); !status.ok()) return status;

  std::string stored(labels->element_bytes(), '\0');
  if (absl::Status status = labels->Read(stored.data()); !status.ok()) return status;
  if (absl::Status status = AppendLabels(*labels, stored, classes, &images->labels); !status.ok()) return status;
  const size_t before = images->pixels.size();
  images->pixels.resize(before + pixels->element_bytes());
  if (absl::Status status = pixels->Read(images->pixels.data() + before); !status.ok()) return status;
  images->extra_rows += static_cast<int64_t>(*rows);
  if (digest != nullptr) {
    digest->Add(path, std::string_view(images->pixels).substr(before));
    digest->Add(path, stored);
  }
  return absl::OkStatus();
}

}  // namespace

std::string ExtraDataPath(const std::string& directory, const std::string& name) {
  return absl::StrCat(directory, "/extra/", name, ".npz");
}

std::vector<std::string> ListExtraData(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(directory + "/extra", error), end; !error && entry != end;
       entry.increment(error)) {
    const std::filesystem::path& path = entry->path();
    if (path.extension() == ".npz" && IsExtraDataName(path.stem().string())) names.push_back(path.stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::Status AppendNpz(const std::string& path, size_t classes, LabelledImages* images, SourceDigest* digest) {
  struct stat file {};
  if (stat(path.c_str(), &file) != 0 || !S_ISREG(file.st_mode)) {
    return absl::NotFoundError(absl::StrCat("there is no file ", path));
  }
  int error = 0;
  const Archive archive(zip_open(path.c_str(), ZIP_RDONLY, &error));
  absl::Status status = archive == nullptr ? absl::DataLossError("it is no zip archive, or cut")
                                           : AppendArchive(archive.get(), static_cast<uint64_t>(file.st_size), classes,
                                                           images, digest, path);
  if (status.ok()) return status;
  return absl::DataLossError(
      absl::StrCat(path, ": ", status.message(),
                   "; extra data is what numpy.savez(FILE, image=..., label=...) writes of uint8 "
                   "images [N, H, W, C] and N integer labels"));
}

}  // namespace ham::trainer
