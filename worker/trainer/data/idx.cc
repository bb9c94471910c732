#include "worker/trainer/data/idx.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#include "absl/strings/str_cat.h"

namespace ham::trainer {
namespace {

constexpr size_t kChunkBytes = 1 << 20;
constexpr unsigned char kUnsignedByte = 0x08;

size_t HeaderBytes(size_t dimensions) { return 4 + 4 * dimensions; }

absl::Status Damaged(const std::string& path, const std::string& what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what, "; fetch the data set again"));
}

absl::StatusOr<std::string> FindFile(const std::string& path) {
  for (const std::string& name : {path, path + ".gz"}) {
    std::error_code ignored;
    if (std::filesystem::is_regular_file(name, ignored)) return name;
  }
  return absl::NotFoundError(absl::StrCat("there is neither ", path, " nor ", path, ".gz"));
}

absl::StatusOr<std::string> ReadPlain(const std::string& path, uint64_t limit) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::UnavailableError(absl::StrCat(path, " cannot be opened: ", std::strerror(errno)));
  std::string bytes;
  while (file && bytes.size() < limit) {
    const size_t before = bytes.size();
    const size_t want = std::min<uint64_t>(kChunkBytes, limit - before);
    bytes.resize(before + want);
    file.read(bytes.data() + before, static_cast<std::streamsize>(want));
    bytes.resize(before + static_cast<size_t>(file.gcount()));
  }
  if (file.bad()) return absl::UnavailableError(absl::StrCat("reading ", path, " failed"));
  return bytes;
}

// Unpacks one gzip member, up to `limit` bytes of it. Not gzread: it passes over trailing bytes.
absl::StatusOr<std::string> Unpack(const std::string& path, std::string packed, uint64_t limit) {
  z_stream stream{};
  if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) return absl::ResourceExhaustedError("no memory to unpack a file");
  const std::unique_ptr<z_stream, int (*)(z_stream*)> end(&stream, inflateEnd);
  stream.next_in = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_in = static_cast<uInt>(packed.size());
  std::string bytes;
  int code = Z_OK;
  while (code == Z_OK && bytes.size() < limit) {
    const size_t before = bytes.size();
    bytes.resize(before + std::min<uint64_t>(kChunkBytes, limit - before));
    stream.next_out = reinterpret_cast<Bytef*>(bytes.data() + before);
    stream.avail_out = static_cast<uInt>(bytes.size() - before);
    code = inflate(&stream, Z_NO_FLUSH);
    bytes.resize(bytes.size() - stream.avail_out);
  }
  if (code == Z_OK) return bytes;  // longer than the limit
  if (code == Z_BUF_ERROR) return Damaged(path, "the compressed file is cut");
  if (code != Z_STREAM_END) {
    return Damaged(path, absl::StrCat("it cannot be unpacked: ", stream.msg == nullptr ? "no gzip file" : stream.msg));
  }
  if (stream.avail_in > 0) return Damaged(path, "there are bytes after the end of the compressed data");
  return bytes;
}

// At most `limit` bytes: a longer file gives `limit` bytes.
absl::StatusOr<std::string> ReadUnpacked(const std::string& path, uint64_t limit) {
  if (!path.ends_with(".gz")) return ReadPlain(path, limit);
  constexpr uint64_t kMaxPackedBytes = (uint64_t{4} << 30) - 1;
  absl::StatusOr<std::string> packed = ReadPlain(path, kMaxPackedBytes);
  if (!packed.ok()) return packed;
  if (packed->size() >= kMaxPackedBytes) return Damaged(path, "the compressed file is larger than 4 GiB");
  return Unpack(path, *std::move(packed), limit);
}

uint32_t BigEndian(const std::string& bytes, size_t offset) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(bytes[offset + i]);
  return value;
}

}  // namespace

absl::StatusOr<IdxFile> ReadIdx(const std::string& path, size_t dimensions, uint64_t max_elements) {
  const absl::StatusOr<std::string> found = FindFile(path);
  if (!found.ok()) return found.status();
  const size_t header = HeaderBytes(dimensions);
  absl::StatusOr<std::string> bytes = ReadUnpacked(*found, header + max_elements + 1);
  if (!bytes.ok()) return bytes.status();
  if (bytes->size() < header) return Damaged(*found, "the file ends within its header");
  const std::array<unsigned char, 4> magic{0, 0, kUnsignedByte, static_cast<unsigned char>(dimensions)};
  if (std::memcmp(bytes->data(), magic.data(), magic.size()) != 0) {
    return Damaged(*found, absl::StrCat("it does not start with the magic number of an IDX file of ", dimensions,
                                        dimensions == 1 ? " dimension" : " dimensions"));
  }
  IdxFile idx;
  uint64_t elements = 1;
  for (size_t i = 0; i < dimensions; ++i) {
    idx.shape.push_back(BigEndian(*bytes, 4 + 4 * i));
    if (__builtin_mul_overflow(elements, uint64_t{idx.shape.back()}, &elements) || elements > max_elements) {
      return Damaged(*found, absl::StrCat("its header announces more than ", max_elements, " elements"));
    }
  }
  const uint64_t have = bytes->size() - header;
  if (have < elements) {
    return Damaged(*found, absl::StrCat("the file is cut: ", have, " of ", elements, " elements"));
  }
  if (have > elements)
    return Damaged(*found, absl::StrCat("there are bytes after the last of ", elements, " elements"));
  idx.bytes = *std::move(bytes);
  idx.data_offset = header;
  return idx;
}

}  // namespace ham::trainer
