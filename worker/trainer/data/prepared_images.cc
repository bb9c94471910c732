#include "worker/trainer/data/prepared_images.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "proto/atomic_file.h"

namespace ham::trainer {
namespace {

static_assert(std::endian::native == std::endian::little);

struct PreparedHeader {
  char magic[8];
  uint32_t version;
  uint32_t crc;
  uint64_t rows;
  uint16_t channels, height, width, classes;
  char name[64];
  char source_digest[64];
  char identity[64];
  uint64_t extra_rows;
};
static_assert(sizeof(PreparedHeader) == 232);

constexpr char kMagic[] = "HAMDATA\n";
constexpr uint32_t kPreparedVersion = 2;
constexpr uint64_t kCrcFrom = 16;
constexpr size_t kCrcChunkBytes = size_t{16} << 20;
constexpr uint64_t kImagesOffset = 4096;

uint64_t RoundUp8(uint64_t bytes) { return (bytes + 7) / 8 * 8; }

uint32_t Crc(std::span<const uint8_t> bytes, const std::function<void()>& tick) {
  uLong crc = crc32_z(0, nullptr, 0);
  for (size_t at = kCrcFrom; at < bytes.size(); at += kCrcChunkBytes) {
    crc = crc32_z(crc, bytes.data() + at, std::min(kCrcChunkBytes, bytes.size() - at));
    tick();
  }
  return static_cast<uint32_t>(crc);
}

absl::Status DamagedPrepared(const std::string& path, const std::string& what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what, "; remove this prepared file, it is made anew"));
}

std::string_view Text(const char (&field)[64]) { return {field, strnlen(field, sizeof(field))}; }

class Mapping {
 public:
  Mapping(void* start, size_t size) : start_(start), size_(size) {}
  ~Mapping() { munmap(start_, size_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  std::span<const uint8_t> bytes() const { return {static_cast<const uint8_t*>(start_), size_}; }

 private:
  void* const start_;
  const size_t size_;
};

}  // namespace

std::string PackImages(const PreparedKey& key, const LabelledImages& images, const std::string& source_digest) {
  PreparedHeader header{};
  assert(key.name.size() < sizeof(header.name) && source_digest.size() == sizeof(header.source_digest) &&
         key.identity.size() == sizeof(header.identity));
  std::copy_n(kMagic, sizeof(header.magic), header.magic);
  header.version = kPreparedVersion;
  header.rows = images.labels.size();
  header.extra_rows = static_cast<uint64_t>(images.extra_rows);
  header.channels = static_cast<uint16_t>(images.channels);
  header.height = static_cast<uint16_t>(images.height);
  header.width = static_cast<uint16_t>(images.width);
  header.classes = static_cast<uint16_t>(key.class_names.size());
  std::copy(key.name.begin(), key.name.end(), header.name);
  std::copy(source_digest.begin(), source_digest.end(), header.source_digest);
  std::copy(key.identity.begin(), key.identity.end(), header.identity);
  const uint64_t labels_offset = kImagesOffset + RoundUp8(images.pixels.size());
  std::string bytes(labels_offset + images.labels.size() * sizeof(int64_t), '\0');
  std::memcpy(bytes.data() + kImagesOffset, images.pixels.data(), images.pixels.size());
  std::memcpy(bytes.data() + labels_offset, images.labels.data(), images.labels.size() * sizeof(int64_t));
  std::memcpy(bytes.data(), &header, sizeof(header));
  header.crc = Crc({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, [] {});
  std::memcpy(bytes.data(), &header, sizeof(header));
  return bytes;
}

absl::StatusOr<ImageSet> ParsePrepared(const std::string& path, const PreparedKey& key, std::span<const uint8_t> bytes,
                                       std::shared_ptr<const void> storage, const std::function<void()>& tick) {
  PreparedHeader header;
  if (bytes.size() < kImagesOffset) return DamagedPrepared(path, "it ends within its header");
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (!std::equal(header.magic, header.magic + sizeof(header.magic), kMagic)) {
    return DamagedPrepared(path, "it does not start as a prepared data set does");
  }
  if (header.version != kPreparedVersion) {
    return absl::NotFoundError(absl::StrCat(path, " has version ", header.version, ", not ", kPreparedVersion));
  }
  const uint64_t row_bytes = uint64_t{header.channels} * header.height * header.width;
  if (header.rows == 0 || header.rows > kMaxRows || row_bytes == 0 ||
      bytes.size() != kImagesOffset + RoundUp8(header.rows * row_bytes) + header.rows * sizeof(int64_t)) {
    return DamagedPrepared(path, absl::StrCat("its size, ", bytes.size(), " bytes, is not that of ", header.rows,
                                              " images of ", row_bytes, " bytes"));
  }
  if (header.extra_rows >= header.rows) {
    return DamagedPrepared(path, absl::StrCat("of its ", header.rows, " rows ", header.extra_rows, " are extra"));
  }
  if (Crc(bytes, tick) != header.crc) return DamagedPrepared(path, "its checksum is wrong");
  if (Text(header.name) != key.name || Text(header.identity) != key.identity || header.channels != key.channels ||
      header.height != key.height || header.width != key.width || header.classes != key.class_names.size()) {
    return absl::NotFoundError(absl::StrCat(path, " was prepared from other files than those of ", key.name));
  }
  const uint64_t image_bytes = header.rows * row_bytes;
  const auto* const labels = reinterpret_cast<const int64_t*>(bytes.data() + kImagesOffset + RoundUp8(image_bytes));
  const auto classes = static_cast<int64_t>(header.classes);
  for (uint64_t row = 0; row < header.rows; ++row) {
    if (labels[row] < 0 || labels[row] >= classes) {
      return DamagedPrepared(path,
                             absl::StrCat("label ", labels[row], " of row ", row, " is not in [0, ", classes, ")"));
    }
  }
  return ImageSet{.rows = static_cast<int64_t>(header.rows),
                  .channels = header.channels,
                  .height = header.height,
                  .width = header.width,
                  .images = bytes.subspan(kImagesOffset, image_bytes),
                  .labels = {labels, header.rows},
                  .class_names = key.class_names,
                  .storage = std::move(storage),
                  .extra_rows = static_cast<int64_t>(header.extra_rows),
                  .digest = std::string(Text(header.source_digest))};
}

absl::StatusOr<ImageSet> MapPrepared(const std::string& path, const PreparedKey& key,
                                     const std::function<void()>& tick) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return absl::NotFoundError(absl::StrCat("there is no file ", path));
  if (fd < 0) return FileError("open", path, errno);
  struct stat file {};
  void* start = MAP_FAILED;
  if (fstat(fd, &file) == 0 && file.st_size > 0) {
    start = mmap(nullptr, static_cast<size_t>(file.st_size), PROT_READ, MAP_SHARED, fd, 0);
  }
  const int error = errno;
  close(fd);
  if (file.st_size == 0) return DamagedPrepared(path, "it is empty");
  if (start == MAP_FAILED) return FileError("map", path, error);
  const auto mapping = std::make_shared<const Mapping>(start, static_cast<size_t>(file.st_size));
  return ParsePrepared(path, key, mapping->bytes(), mapping, tick);
}

}  // namespace ham::trainer
