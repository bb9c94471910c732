#include "worker/trainer/safetensors.h"

#include "proto/strict_json.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include "absl/strings/str_cat.h"

namespace ham::trainer {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are written as they lie in memory");

using nlohmann::json;

constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr size_t kMaxDimensions = 64;
constexpr char kMetadata[] = "__metadata__";

struct Entry {
  std::string name;
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // from the start of the data
  uint64_t end = 0;
};

struct Dtype {
  at::ScalarType type;
  const char* name;
};
constexpr Dtype kDtypes[] = {
    {at::kDouble, "F64"}, {at::kFloat, "F32"}, {at::kHalf, "F16"}, {at::kBFloat16, "BF16"}, {at::kLong, "I64"}};

// Copies `length` bytes from `offset` on to `out`; all lie within the file.
using ReadAt = std::function<absl::Status(uint64_t offset, uint64_t length, void* out)>;

absl::Status Damaged(const std::string& what) { return absl::DataLossError(absl::StrCat("safetensors: ", what)); }

std::optional<uint64_t> Multiply(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

bool IsSize(const json& value) {
  return value.is_number_unsigned() && value.get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()};
}

absl::StatusOr<Entry> ParseEntry(const std::string& name, const json& value) {
  const std::string tensor = absl::StrCat("tensor \"", name, "\"");
  if (name.empty()) return Damaged("a tensor has no name");
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") || !value.contains("shape") ||
      !value.contains("data_offsets")) {
    return Damaged(absl::StrCat(tensor, " must have dtype, shape and data_offsets, and nothing else"));
  }
  Entry entry;
  entry.name = name;
  const json& name_of_dtype = value.at("dtype");
  const auto* dtype =
      std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](const Dtype& d) { return name_of_dtype == d.name; });
  if (dtype == std::end(kDtypes)) {
    return Damaged(absl::StrCat(tensor, " has dtype ", name_of_dtype.dump(),
                                "; known are F64, F32, F16, BF16 and I64: convert it"));
  }
  entry.dtype = dtype->type;
  const json& shape = value.at("shape");
  std::optional<uint64_t> bytes = c10::elementSize(entry.dtype);
  if (!shape.is_array() || shape.size() > kMaxDimensions || !std::all_of(shape.begin(), shape.end(), IsSize)) {
    return Damaged(absl::StrCat(tensor, " has a shape that is no list of sizes"));
  }
  for (const json& size : shape) {
    entry.shape.push_back(size.get<int64_t>());
    if (bytes) bytes = Multiply(*bytes, size.get<uint64_t>());
  }
  const json& offsets = value.at("data_offsets");
  if (!offsets.is_array() || offsets.size() != 2 || !IsSize(offsets[0]) || !IsSize(offsets[1])) {
    return Damaged(absl::StrCat(tensor, " has data_offsets that are not two offsets"));
  }
  entry.begin = offsets[0].get<uint64_t>();
  entry.end = offsets[1].get<uint64_t>();
  if (!bytes || entry.begin > entry.end || entry.end - entry.begin != *bytes) {
    return Damaged(absl::StrCat(tensor, " has a shape that does not fit its data_offsets"));
  }
  return entry;
}

// The entries must cover the data from its first to its last byte, each byte once.
absl::Status CheckCover(std::vector<Entry>& entries, uint64_t data_bytes) {
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  uint64_t position = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != position) {
      return Damaged(absl::StrCat(
          "tensor \"", entry.name, "\" starts at byte ", entry.begin, " of the data, ",
          entry.begin < position ? "within the one before, which ends at " : "behind a gap from byte ", position));
    }
    position = entry.end;
  }
  if (position == data_bytes) return absl::OkStatus();
  return Damaged(absl::StrCat("the file holds ", data_bytes, " bytes of data, its header describes ", position));
}

absl::Status ParseMetadata(const json& value, Safetensors& content) {
  if (!value.is_object()) return Damaged("__metadata__ is no object");
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) return Damaged(absl::StrCat("__metadata__ \"", key, "\" is no string"));
    content.metadata[key] = text.get<std::string>();
  }
  return absl::OkStatus();
}

absl::StatusOr<json> ParseHeader(uint64_t file_bytes, const ReadAt& read, uint64_t& data_begin) {
  if (file_bytes < kLengthBytes) return Damaged("the file is shorter than the length of its header");
  uint64_t length = 0;
  if (absl::Status status = read(0, kLengthBytes, &length); !status.ok()) return status;
  if (length > kMaxHeaderBytes || length > file_bytes - kLengthBytes) {
    return Damaged(absl::StrCat("a header of ", length, " bytes does not fit a file of ", file_bytes));
  }
  data_begin = kLengthBytes + length;
  std::string text(length, '\0');
  if (absl::Status status = read(kLengthBytes, length, text.data()); !status.ok()) return status;
  absl::StatusOr<json> header = ParseStrictJson(text);
  if (!header.ok()) return Damaged(absl::StrCat("header: ", header.status().message()));
  if (!header->is_object()) return Damaged("the header is no JSON object");
  return header;
}

absl::StatusOr<Safetensors> DecodeUnguarded(uint64_t file_bytes, const ReadAt& read) {
  uint64_t data_begin = 0;
  const absl::StatusOr<json> header = ParseHeader(file_bytes, read, data_begin);
  if (!header.ok()) return header.status();
  Safetensors content;
  std::vector<Entry> entries;
  for (const auto& [name, value] : header->items()) {
    if (name == kMetadata) {
      if (absl::Status status = ParseMetadata(value, content); !status.ok()) return status;
      continue;
    }
    absl::StatusOr<Entry> entry = ParseEntry(name, value);
    if (!entry.ok()) return entry.status();
    entries.push_back(*std::move(entry));
  }
  if (absl::Status status = CheckCover(entries, file_bytes - data_begin); !status.ok()) return status;
  for (const Entry& entry : entries) {
    at::Tensor tensor = at::empty(entry.shape, entry.dtype);
    if (entry.end > entry.begin) {
      absl::Status status = read(data_begin + entry.begin, entry.end - entry.begin, tensor.mutable_data_ptr());
      if (!status.ok()) return status;
    }
    content.tensors.emplace(entry.name, std::move(tensor));
  }
  return content;
}

absl::StatusOr<Safetensors> Decode(uint64_t file_bytes, const ReadAt& read) {
  try {
    return DecodeUnguarded(file_bytes, read);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory for the tensors");
  } catch (const std::exception& e) {
    return Damaged(e.what());
  }
}

absl::StatusOr<std::string> Encode(const Safetensors& content) {
  json header = json::object();
  if (!content.metadata.empty()) header[kMetadata] = content.metadata;
  std::vector<at::Tensor> packed;
  uint64_t position = 0;
  for (const auto& [name, tensor] : content.tensors) {
    if (name.empty() || name == kMetadata || !tensor.defined()) {
      return absl::InvalidArgumentError(absl::StrCat("\"", name, "\" cannot be stored: it needs a name and a tensor"));
    }
    const auto* dtype = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                     [type = tensor.scalar_type()](const Dtype& d) { return type == d.type; });
    if (dtype == std::end(kDtypes)) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor \"", name, "\" of type ", c10::toString(tensor.scalar_type()),
                       " cannot be stored: float64, float32, float16, bfloat16 and int64 are allowed"));
    }
    packed.push_back(tensor.detach().cpu().contiguous());
    const uint64_t end = position + packed.back().nbytes();
    header[name] = {{"dtype", dtype->name}, {"shape", tensor.sizes().vec()}, {"data_offsets", {position, end}}};
    position = end;
  }
  std::string text = header.dump();  // throws for text that is not UTF-8
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  std::string bytes(reinterpret_cast<const char*>(&length), kLengthBytes);
  bytes.reserve(kLengthBytes + length + position);
  bytes += text;
  for (const at::Tensor& tensor : packed) {
    if (tensor.nbytes() > 0) bytes.append(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::string> EncodeSafetensors(const Safetensors& content) {
  try {
    return Encode(content);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory for the tensors");
  } catch (const std::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat("tensors cannot be stored: ", e.what()));
  }
}

absl::StatusOr<Safetensors> DecodeSafetensors(std::string_view bytes) {
  return Decode(bytes.size(), [bytes](uint64_t offset, uint64_t length, void* out) {
    if (length > 0) std::memcpy(out, bytes.data() + offset, length);
    return absl::OkStatus();
  });
}

absl::StatusOr<Safetensors> ReadSafetensors(const std::string& path) {
  std::error_code error;
  const uint64_t file_bytes = std::filesystem::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  if (error || !file) {
    return absl::NotFoundError(
        absl::StrCat(path, " cannot be opened: ", error ? error.message() : "no right to read it"));
  }
  auto content = Decode(file_bytes, [&file](uint64_t offset, uint64_t length, void* out) {
    file.seekg(static_cast<std::streamoff>(offset));
    if (file.read(static_cast<char*>(out), static_cast<std::streamsize>(length))) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("reading ", length, " bytes at byte ", offset, " failed"));
  });
  if (content.ok()) return content;
  return absl::Status(content.status().code(), absl::StrCat(path, ": ", content.status().message()));
}

}  // namespace ham::trainer
