// SVHN's MAT 5 files: X, uint8 [32, 32, 3, N], and y, N labels from 1 to 10, of which 10 means the digit 0. MATLAB's
// arrays run fastest along their first index: X is [N, C, W, H] in memory.
#include <matio.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "worker/trainer/data/readers.h"

namespace ham::trainer {
namespace {

constexpr uint64_t kMostDeflated = 1032;  // bytes that one byte of deflate can stand for
constexpr uint64_t kHeaderBytes = 128;
constexpr std::string_view kVersion{"\0\1IM", 4};  // the end of the header
constexpr uint64_t kMaxMat5Bytes = uint64_t{1} << 32;

struct MatClose {
  void operator()(mat_t* file) const { Mat_Close(file); }
  void operator()(matvar_t* variable) const { Mat_VarFree(variable); }
};
using MatVariable = std::unique_ptr<matvar_t, MatClose>;

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

// Rows of X, whose shape and size are checked before it is read.
absl::StatusOr<uint64_t> CheckImages(const std::string& path, uint64_t file_bytes, const KnownDataSet& set,
                                     const matvar_t& x) {
  const absl::Span<const size_t> shape(x.dims, static_cast<size_t>(x.rank));
  // One image has no fourth dimension.
  const uint64_t rows = x.rank == 4 ? shape[3] : 1;
  if (x.class_type != MAT_C_UINT8 || x.rank < 3 || x.rank > 4 || shape[0] != static_cast<size_t>(set.height) ||
      shape[1] != static_cast<size_t>(set.width) || shape[2] != static_cast<size_t>(set.channels)) {
    return DamagedFile(path, absl::StrCat("variable \"X\" is no array of bytes ", set.height, " x ", set.width, " x ",
                                          set.channels, " x N: its shape is ", absl::StrJoin(shape, " x ")));
  }
  const uint64_t row_bytes = static_cast<uint64_t>(set.height * set.width * set.channels);
  if (rows == 0) return DamagedFile(path, "variable \"X\" holds no images");
  if (rows > kMaxRows || rows * row_bytes > kMostDeflated * file_bytes) {
    return DamagedFile(
        path, absl::StrCat("variable \"X\" announces ", rows, " images, more than ", file_bytes, " bytes can hold"));
  }
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

absl::StatusOr<LabelledImages> ReadMat5(const std::string& path, uint64_t file_bytes, const KnownDataSet& set) {
  const std::unique_ptr<mat_t, MatClose> file(Mat_Open(path.c_str(), MAT_ACC_RDONLY));
  if (file == nullptr) return DamagedFile(path, "its header is wrong");
  auto x = FindVariable(path, file.get(), "X");
  if (!x.ok()) return x.status();
  const auto rows = CheckImages(path, file_bytes, set, **x);
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
  uint64_t file_bytes = 0;
  {
    const auto bytes = ReadSourceFile(path, kMaxMat5Bytes);
    if (!bytes.ok()) return bytes.status();
    file_bytes = bytes->size();
    // matio would open other kinds of files too.
    if (file_bytes < kHeaderBytes || bytes->substr(kHeaderBytes - kVersion.size(), kVersion.size()) != kVersion) {
      return DamagedFile(path, "it does not start with the header of a little-endian MAT 5 file");
    }
    if (digest != nullptr) digest->Add(path, *bytes);
  }
  return ReadMat5(path, file_bytes, set);
}

}  // namespace ham::trainer
