#include "worker/trainer/data/idx.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/trainer/data/readers.h"

namespace ham::trainer {
namespace {

constexpr size_t kChunkBytes = 1 << 20;
constexpr unsigned char kUnsignedByte = 0x08;

size_t HeaderBytes(size_t dimensions) { return 4 + 4 * dimensions; }

// The content of a file, unpacked if its name ends with .gz; read only as far as asked.
class Source {
 public:
  explicit Source(std::string path) : path_(std::move(path)), file_(path_, std::ios::binary) {}
  ~Source() {
    if (unpacks_) inflateEnd(&stream_);
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  absl::Status Open() {
    std::error_code error;
    size_ = std::filesystem::file_size(path_, error);
    if (!file_ || error)
      return absl::UnavailableError(absl::StrCat(path_, " cannot be opened: ", std::strerror(errno)));
    if (!path_.ends_with(".gz")) return absl::OkStatus();
    if (inflateInit2(&stream_, 16 + MAX_WBITS) != Z_OK) {
      return absl::ResourceExhaustedError(absl::StrCat("no memory to unpack ", path_));
    }
    unpacks_ = true;
    return absl::OkStatus();
  }

  // Bytes of a plain file; nothing is known of a packed one before its end.
  std::optional<uint64_t> size() const { return unpacks_ ? std::nullopt : std::optional(size_); }

  // Appends to `bytes` until it has `size`, or all there is.
  absl::Status ReadTo(uint64_t size, std::string* bytes) {
    while (bytes->size() < size && !ended_) {
      const size_t before = bytes->size();
      bytes->resize(before + std::min<uint64_t>(kChunkBytes, size - before));
      const auto got = unpacks_ ? Unpack(bytes->data() + before, bytes->size() - before)
                                : ReadFile(bytes->data() + before, bytes->size() - before);
      if (!got.ok()) return got.status();
      bytes->resize(before + *got);
    }
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<size_t> ReadFile(char* data, size_t size) {
    file_.read(data, static_cast<std::streamsize>(size));
    if (file_.bad()) return absl::UnavailableError(absl::StrCat("reading ", path_, " failed"));
    const auto got = static_cast<size_t>(file_.gcount());
    ended_ = !unpacks_ && got < size;
    return got;
  }

  // One gzip member. Not gzread: it passes over trailing bytes.
  absl::StatusOr<size_t> Unpack(char* data, size_t size) {
    stream_.next_out = reinterpret_cast<Bytef*>(data);
    stream_.avail_out = static_cast<uInt>(size);
    while (stream_.avail_out > 0) {
      if (stream_.avail_in == 0) {
        packed_.resize(kChunkBytes);
        absl::StatusOr<size_t> got = ReadFile(packed_.data(), packed_.size());
        if (!got.ok()) return got;
        if (*got == 0) return DamagedFile(path_, "the compressed file is cut");
        stream_.next_in = reinterpret_cast<Bytef*>(packed_.data());
        stream_.avail_in = static_cast<uInt>(*got);
      }
      const int code = inflate(&stream_, Z_NO_FLUSH);
      if (code == Z_STREAM_END) {
        ended_ = true;
        if (stream_.avail_in > 0 || file_.peek() != std::ifstream::traits_type::eof()) {
          return DamagedFile(path_, "there are bytes after the end of the compressed data");
        }
        break;
      }
      if (code != Z_OK) {
        return DamagedFile(
            path_, absl::StrCat("it cannot be unpacked: ", stream_.msg == nullptr ? "no gzip file" : stream_.msg));
      }
    }
    return size - stream_.avail_out;
  }

  const std::string path_;
  std::ifstream file_;
  uint64_t size_ = 0;
  bool unpacks_ = false;
  bool ended_ = false;
  z_stream stream_{};
  std::string packed_;  // what stream_ reads
};

absl::Status CheckShapes(const std::string& image_path, const std::string& label_path, const KnownDataSet& set,
                         const IdxFile& images, const IdxFile& labels) {
  if (images.shape[1] != set.height || images.shape[2] != set.width) {
    return DamagedFile(image_path, absl::StrCat("its images are ", images.shape[1], " x ", images.shape[2], " pixels, ",
                                                set.name, " has ", set.height, " x ", set.width));
  }
  if (images.shape[0] == 0) return DamagedFile(image_path, "it holds no images");
  if (images.shape[0] != labels.shape[0]) {
    return DamagedFile(label_path,
                       absl::StrCat("it holds ", labels.shape[0], " labels for ", images.shape[0], " images"));
  }
  return absl::OkStatus();
}

uint32_t BigEndian(const std::string& bytes, size_t offset) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(bytes[offset + i]);
  return value;
}

}  // namespace

absl::StatusOr<std::string> FindIdxFile(const std::string& path) {
  for (const std::string& name : {path, path + ".gz"}) {
    std::error_code ignored;
    if (std::filesystem::is_regular_file(name, ignored)) return name;
  }
  return absl::NotFoundError(absl::StrCat("there is neither ", path, " nor ", path, ".gz"));
}

absl::StatusOr<IdxFile> ReadIdx(const std::string& path, size_t dimensions, uint64_t max_elements) {
  const absl::StatusOr<std::string> found = FindIdxFile(path);
  if (!found.ok()) return found.status();
  const size_t header = HeaderBytes(dimensions);
  Source source(*found);
  if (absl::Status status = source.Open(); !status.ok()) return status;
  std::string bytes;
  if (absl::Status status = source.ReadTo(header, &bytes); !status.ok()) return status;
  if (bytes.size() < header) return DamagedFile(*found, "the file ends within its header");
  const std::array<unsigned char, 4> magic{0, 0, kUnsignedByte, static_cast<unsigned char>(dimensions)};
  if (std::memcmp(bytes.data(), magic.data(), magic.size()) != 0) {
    return DamagedFile(*found, absl::StrCat("it does not start with the magic number of an IDX file of ", dimensions,
                                            dimensions == 1 ? " dimension" : " dimensions"));
  }
  IdxFile idx;
  uint64_t elements = 1;
  for (size_t i = 0; i < dimensions; ++i) {
    idx.shape.push_back(BigEndian(bytes, 4 + 4 * i));
    if (__builtin_mul_overflow(elements, uint64_t{idx.shape.back()}, &elements) || elements > max_elements) {
      return DamagedFile(*found, absl::StrCat("its header announces more than ", max_elements, " elements"));
    }
  }
  // One byte more than announced, so that what follows is seen. What can be told from the size is told unread.
  uint64_t have = source.size().value_or(0) - header;
  if (!source.size() || have == elements) {
    if (absl::Status status = source.ReadTo(header + elements + 1, &bytes); !status.ok()) return status;
    have = bytes.size() - header;
  }
  if (have < elements) {
    return DamagedFile(*found, absl::StrCat("the file is cut: ", have, " of ", elements, " elements"));
  }
  if (have > elements)
    return DamagedFile(*found, absl::StrCat("there are bytes after the last of ", elements, " elements"));
  idx.bytes = std::move(bytes);
  idx.data_offset = header;
  return idx;
}

absl::StatusOr<LabelledImages> ReadIdxSplit(const std::string& directory, const KnownDataSet& set, Split split,
                                            SourceDigest* digest) {
  const std::vector<OfficialFile>& files = set.split(split).files;
  const std::string image_path = directory + "/" + files[0].name, label_path = directory + "/" + files[1].name;
  auto images = ReadIdx(image_path, 3, kMaxRows * static_cast<uint64_t>(set.height * set.width));
  if (!images.ok()) return images.status();
  const auto labels = ReadIdx(label_path, 1, kMaxRows);
  if (!labels.ok()) return labels.status();
  if (absl::Status status = CheckShapes(image_path, label_path, set, *images, *labels); !status.ok()) return status;
  if (digest != nullptr) {
    digest->Add(image_path, images->bytes);
    digest->Add(label_path, labels->bytes);
  }
  LabelledImages out{set.channels, set.height, set.width, std::move(images->bytes), {}};
  out.pixels.erase(0, images->data_offset);
  for (size_t i = labels->data_offset; i < labels->bytes.size(); ++i) {
    const auto label = static_cast<unsigned char>(labels->bytes[i]);
    if (label >= set.class_names.size()) {
      return DamagedFile(label_path, absl::StrCat("label ", int{label}, " of row ", i - labels->data_offset,
                                                  " (offset ", i, ") is not in [0, ", set.class_names.size(), ")"));
    }
    out.labels.push_back(label);
  }
  return out;
}

}  // namespace ham::trainer
