// SVHN's MAT 5 files: X, uint8 [32, 32, 3, N], and y, N labels from 1 to 10, of which 10 means the digit 0. MATLAB's
// arrays run fastest along their first index: X is [N, C, W, H] in memory.
#include <matio.h>
#include <zlib.h>

#include <cmath>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "worker/trainer/data/readers.h"

namespace ham::trainer {
namespace {

constexpr uint64_t kHeaderBytes = 128;
constexpr std::string_view kVersion{"\0\1IM", 4};  // the end of the header
constexpr uint64_t kMaxMat5Bytes = uint64_t{1} << 32;

struct MatClose {
  void operator()(mat_t* file) const { Mat_Close(file); }
  void operator()(matvar_t* variable) const { Mat_VarFree(variable); }
};
using MatVariable = std::unique_ptr<matvar_t, MatClose>;

constexpr uint32_t kMatrix = 14, kCompressed = 15;  // types of elements
constexpr uint32_t kDoubleClass = 6, kUint8Class = 9;
constexpr uint32_t kMaxName = 63;

// Bytes of a number of an element's type; 0 if it is none of numbers.
uint64_t NumberBytes(uint32_t type) {
  constexpr uint8_t kBytes[] = {0, 1, 1, 2, 2, 4, 4, 4, 0, 8, 0, 0, 8, 8};
  return type < std::size(kBytes) ? kBytes[type] : 0;
}

// Reads the start of an array, unpacked; `bytes` must outlive it.
class ArrayHead {
 public:
  explicit ArrayHead(std::string_view bytes) : bytes_(bytes) {}

  // An element's tag; its data follows, and Skip passes it. Small ones have type and size in one number. False at the
  // end.
  bool ReadTag(uint32_t* type, uint32_t* size) {
    uint32_t word = 0;
    if (!ReadNumber(&word)) return false;
    small_ = word >> 16 != 0;
    *type = word & 0xffff;
    *size = word >> 16;
    return small_ ? *size <= 4 : ReadNumber(size);
  }
  bool ReadNumber(uint32_t* number) {
    if (offset_ + sizeof(*number) > bytes_.size()) return false;
    std::memcpy(number, bytes_.data() + offset_, sizeof(*number));
    offset_ += sizeof(*number);
    return true;
  }
  // Passes the data of an element of `size` bytes.
  bool Skip(uint32_t size) {
    offset_ += small_ ? 4 : (uint64_t{size} + 7) / 8 * 8;
    return offset_ <= bytes_.size();
  }

 private:
  const std::string_view bytes_;
  uint64_t offset_ = 0;
  bool small_ = false;
};

// Whether `head` starts an array of numbers, not complex, with at most four dimensions and a short name, whose data has
// the size that its shape says; `room`: the most bytes that can follow.
bool IsPlainArray(ArrayHead head, uint64_t room) {
  uint32_t type = 0, size = 0, flags = 0, unused = 0;
  if (!head.ReadTag(&type, &size) || type != kMatrix || size > room) return false;
  if (!head.ReadTag(&type, &size) || type != 6 || size != 8) return false;
  if (!head.ReadNumber(&flags) || !head.ReadNumber(&unused)) return false;
  const uint32_t kind = flags & 0xff;
  if ((kind != kDoubleClass && kind != kUint8Class) || (flags & ~0xffU) != 0) return false;
  if (!head.ReadTag(&type, &size) || type != 5 || (size != 8 && size != 12 && size != 16)) return false;
  uint64_t elements = 1;
  for (uint32_t i = 0; i < size / 4; ++i) {
    uint32_t length = 0;
    if (!head.ReadNumber(&length) || __builtin_mul_overflow(elements, uint64_t{length}, &elements)) return false;
  }
  if (size == 12 && !head.ReadNumber(&unused)) return false;
  if (!head.ReadTag(&type, &size) || type != 1 || size == 0 || size > kMaxName || !head.Skip(size)) return false;
  if (!head.ReadTag(&type, &size) || NumberBytes(type) == 0 || size > room) return false;
  return elements <= room && elements * NumberBytes(type) == size;
}

// The first bytes of packed data, enough for the head of any array that IsPlainArray takes.
std::string UnpackHead(std::string_view packed) {
  std::string head(256, '\0');
  z_stream stream{};
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = reinterpret_cast<Bytef*>(head.data());
  stream.avail_out = static_cast<uInt>(head.size());
  if (inflateInit(&stream) != Z_OK) return "";
  inflate(&stream, Z_SYNC_FLUSH);
  head.resize(head.size() - stream.avail_out);
  inflateEnd(&stream);
  return head;
}

// matio allocates what a header announces, and knows more kinds of files and variables than are wanted here: it gets
// only files of plain arrays whose sizes hold.
absl::Status CheckElements(const std::string& path, std::string_view bytes) {
  if (bytes.size() < kHeaderBytes || bytes.substr(kHeaderBytes - kVersion.size(), kVersion.size()) != kVersion) {
    return DamagedFile(path, "it does not start with the header of a little-endian MAT 5 file");
  }
  for (uint64_t offset = kHeaderBytes; offset < bytes.size();) {
    uint32_t type = 0, size = 0;
    ArrayHead tag(bytes.substr(offset, 8));
    if (!tag.ReadNumber(&type) || !tag.ReadNumber(&size) || size > bytes.size() - offset - 8) {
      return DamagedFile(path, absl::StrCat("the element at offset ", offset, " is cut"));
    }
    const std::string_view data = bytes.substr(offset + 8, size);
    const std::string unpacked = type == kCompressed ? UnpackHead(data) : "";
    const bool plain = type == kCompressed ? IsPlainArray(ArrayHead(unpacked), kMostDeflated * size)
                                           : type == kMatrix && IsPlainArray(ArrayHead(bytes.substr(offset)), size);
    if (!plain) {
      return DamagedFile(path, absl::StrCat("the element at offset ", offset,
                                            " is no array of bytes or doubles, or its shape is not that of its data"));
    }
    offset += 8 + size;
  }
  return absl::OkStatus();
}

// Reads the head of variable `name`.
absl::StatusOr<MatVariable> FindVariable(const std::string& path, mat_t* file, const char* name) {
  MatVariable variable(Mat_VarReadInfo(file, name));
  if (variable == nullptr) return DamagedFile(path, absl::StrCat("it holds no variable \"", name, "\""));
  if (variable->isComplex || variable->isLogical || variable->rank < 2) {
    return DamagedFile(path, absl::StrCat("variable \"", name, "\" is no plain array"));
  }
  return variable;
}

absl::Status ReadData(const std::string& path, mat_t* file, const MatVariable& variable) {
  if (Mat_VarReadDataAll(file, variable.get()) == 0 && variable->data != nullptr) return absl::OkStatus();
  return DamagedFile(path, absl::StrCat("variable \"", variable->name, "\" is cut or cannot be unpacked"));
}

// Rows of X.
absl::StatusOr<uint64_t> CheckImages(const std::string& path, const KnownDataSet& set, const matvar_t& x) {
  const absl::Span<const size_t> shape(x.dims, static_cast<size_t>(x.rank));
  // One image has no fourth dimension.
  const uint64_t rows = x.rank == 4 ? shape[3] : 1;
  if (x.class_type != MAT_C_UINT8 || x.rank < 3 || x.rank > 4 || shape[0] != static_cast<size_t>(set.height) ||
      shape[1] != static_cast<size_t>(set.width) || shape[2] != static_cast<size_t>(set.channels)) {
    return DamagedFile(path, absl::StrCat("variable \"X\" is no array of bytes ", set.height, " x ", set.width, " x ",
                                          set.channels, " x N: its shape is ", absl::StrJoin(shape, " x ")));
  }
  if (rows == 0) return DamagedFile(path, "variable \"X\" holds no images");
  return rows;
}

absl::Status AddLabels(const std::string& path, const KnownDataSet& set, uint64_t rows, const matvar_t& y,
                       LabelledImages* out) {
  for (uint64_t row = 0; row < rows; ++row) {
    const double value = y.class_type == MAT_C_UINT8 ? static_cast<const uint8_t*>(y.data)[row]
                                                     : static_cast<const double*>(y.data)[row];
    const auto classes = static_cast<double>(set.class_names.size());
    if (!(value >= 1 && value <= classes) || value != std::floor(value)) {
      return DamagedFile(path,
                         absl::StrCat("label ", value, " of row ", row, " is not an integer in [1, ", classes, "]"));
    }
    out->labels.push_back(static_cast<int64_t>(value) % static_cast<int64_t>(classes));
  }
  return absl::OkStatus();
}

absl::StatusOr<LabelledImages> ReadMat5(const std::string& path, const KnownDataSet& set) {
  const std::unique_ptr<mat_t, MatClose> file(Mat_Open(path.c_str(), MAT_ACC_RDONLY));
  if (file == nullptr) return DamagedFile(path, "its header is wrong");
  auto x = FindVariable(path, file.get(), "X");
  if (!x.ok()) return x.status();
  const auto rows = CheckImages(path, set, **x);
  if (!rows.ok()) return rows.status();
  auto y = FindVariable(path, file.get(), "y");
  if (!y.ok()) return y.status();
  const matvar_t& labels = **y;
  if ((labels.class_type != MAT_C_UINT8 && labels.class_type != MAT_C_DOUBLE) || labels.rank != 2 ||
      !((labels.dims[0] == *rows && labels.dims[1] == 1) || (labels.dims[0] == 1 && labels.dims[1] == *rows))) {
    return DamagedFile(path, absl::StrCat("variable \"y\" is no array of ", *rows, " uint8 or double labels"));
  }
  if (absl::Status status = ReadData(path, file.get(), *x); !status.ok()) return status;
  if (absl::Status status = ReadData(path, file.get(), *y); !status.ok()) return status;

  const int64_t row_bytes = set.height * set.width * set.channels;
  const uint64_t label_bytes = labels.class_type == MAT_C_UINT8 ? 1 : sizeof(double);
  if ((*x)->nbytes != *rows * static_cast<uint64_t>(row_bytes) || labels.nbytes != *rows * label_bytes) {
    return DamagedFile(path, "its variables do not hold what their shapes say");
  }
  LabelledImages out{set.channels, set.height, set.width, {}, {}};
  if (absl::Status status = AddLabels(path, set, *rows, labels, &out); !status.ok()) return status;
  out.pixels.resize((*x)->nbytes);
  const char* from = static_cast<const char*>((*x)->data);
  char* to = out.pixels.data();
  for (uint64_t row = 0; row < *rows; ++row, from += row_bytes) {
    for (int64_t h = 0; h < set.height; ++h) {
      for (int64_t w = 0; w < set.width; ++w) {
        for (int64_t c = 0; c < set.channels; ++c) *to++ = from[(c * set.width + w) * set.height + h];
      }
    }
  }
  return out;
}

}  // namespace

absl::StatusOr<LabelledImages> ReadMat5Split(const std::string& directory, const KnownDataSet& set, Split split,
                                             SourceDigest* digest) {
  const std::string path = directory + "/" + set.split(split).files[0].name;
  {
    const auto bytes = ReadSourceFile(path, kMaxMat5Bytes);
    if (!bytes.ok()) return bytes.status();
    if (absl::Status status = CheckElements(path, *bytes); !status.ok()) return status;
    if (digest != nullptr) digest->Add(path, *bytes);
  }
  return ReadMat5(path, set);
}

}  // namespace ham::trainer
