#include "worker/trainer/data/jpeg.h"

#include <turbojpeg.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "worker/trainer/data/source_files.h"

namespace ham::trainer {
namespace {

// Which source pixels make one result pixel along a side, and how much of each.
struct Taps {
  int64_t first = 0;
  std::vector<float> weights;  // sum 1
};

// Result pixels [begin, begin + count) of a side of `from` pixels that becomes `to`.
std::vector<Taps> TriangleFilter(int64_t from, int64_t to, int64_t begin, int64_t count) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double radius = std::max(scale, 1.0);  // enlarging: plain bilinear
  std::vector<Taps> taps(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const double centre = (static_cast<double>(begin + i) + 0.5) * scale;
    const auto first = static_cast<int64_t>(std::max(0.0, std::floor(centre - radius + 0.5)));
    const int64_t last = std::min(from, static_cast<int64_t>(std::floor(centre + radius + 0.5)));
    Taps& out = taps[static_cast<size_t>(i)];
    out.first = first;
    double sum = 0;
    for (int64_t j = first; j < last; ++j) {
      const double weight = std::max(0.0, 1 - std::abs((static_cast<double>(j) + 0.5 - centre) / radius));
      out.weights.push_back(static_cast<float>(weight));
      sum += weight;
    }
    for (float& weight : out.weights) weight = static_cast<float>(weight / sum);
  }
  return taps;
}

typedef float Float4 __attribute__((vector_size(16)));

Float4 Load4(const float* from) {
  Float4 out;
  std::memcpy(&out, from, sizeof(out));
  return out;
}

// rows[i] += weight * bytes[i]
void AddWeighted(const uint8_t* bytes, float weight, int64_t count, float* rows) {
  for (int64_t i = 0; i < count; ++i) rows[i] += weight * static_cast<float>(bytes[i]);
}

}  // namespace

JpegDecoder::JpegDecoder() : handle_(tjInitDecompress()) { assert(handle_ != nullptr); }

JpegDecoder::~JpegDecoder() { tjDestroy(handle_); }

absl::StatusOr<JpegSize> JpegDecoder::CheckHeader(const std::string& path, std::string_view bytes) {
  int width = 0, height = 0, subsampling = 0, colours = 0;
  if (tjDecompressHeader3(handle_, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), &width, &height,
                          &subsampling, &colours) != 0) {
    return DamagedFile(path, absl::StrCat("it is no JPEG file that can be read: ", tjGetErrorStr2(handle_)));
  }
  if (colours == TJCS_CMYK || colours == TJCS_YCCK) {
    return DamagedFile(path, "its colours are CMYK; allowed are grey and YCbCr or RGB");
  }
  const uint64_t pixels = static_cast<uint64_t>(width) * static_cast<uint64_t>(height);
  if (pixels > kMaxJpegPixels || pixels > kMaxPixelsPerByte * bytes.size()) {
    return DamagedFile(
        path, absl::StrCat("its header announces ", width, " x ", height, " pixels; allowed are ", kMaxJpegPixels,
                           " and ", kMaxPixelsPerByte, " for each of its ", bytes.size(), " bytes"));
  }
  return JpegSize{height, width};
}

absl::StatusOr<JpegSize> JpegDecoder::DecodePixels(const std::string& path, std::string_view bytes) {
  auto size = CheckHeader(path, bytes);
  if (!size.ok()) return size;
  pixels_.resize(static_cast<size_t>(size->height * size->width * 3));
  if (tjDecompress2(handle_, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), pixels_.data(),
                    static_cast<int>(size->width), 0, static_cast<int>(size->height), TJPF_RGB,
                    TJFLAG_STOPONWARNING | TJFLAG_LIMITSCANS) != 0) {
    return DamagedFile(path, absl::StrCat("it cannot be decoded: ", tjGetErrorStr2(handle_)));
  }
  return size;
}

absl::Status JpegDecoder::Decode(const std::string& path, std::string_view bytes, int image_size, uint8_t* out) {
  const auto size = DecodePixels(path, bytes);
  if (!size.ok()) return size.status();
  const int64_t side = image_size, shorter = std::min(size->height, size->width);
  const int64_t height = side * size->height / shorter, width = side * size->width / shorter;
  const int64_t top = (height - side) / 2, left = (width - side) / 2;
  if (shorter == side) {
    for (int64_t row = 0; row < side; ++row) {
      std::copy_n(pixels_.data() + ((top + row) * size->width + left) * 3, side * 3, out + row * side * 3);
    }
    return absl::OkStatus();
  }
  const std::vector<Taps> vertical = TriangleFilter(size->height, height, top, side);
  const std::vector<Taps> horizontal = TriangleFilter(size->width, width, left, side);
  const int64_t first_column = horizontal.front().first;
  const Taps& last = horizontal.back();
  const int64_t columns = last.first + static_cast<int64_t>(last.weights.size()) - first_column;
  // One row at a time, of the columns that are needed; one float more, as pixels are read by fours.
  row_.assign(static_cast<size_t>(columns * 3 + 1), 0);
  for (int64_t row = 0; row < side; ++row) {
    std::fill(row_.begin(), row_.end(), 0.0f);
    const Taps& taps = vertical[static_cast<size_t>(row)];
    for (size_t tap = 0; tap < taps.weights.size(); ++tap) {
      AddWeighted(pixels_.data() + ((taps.first + static_cast<int64_t>(tap)) * size->width + first_column) * 3,
                  taps.weights[tap], columns * 3, row_.data());
    }
    for (const Taps& column : horizontal) {
      const float* from = row_.data() + (column.first - first_column) * 3;
      Float4 sum = {0.5f, 0.5f, 0.5f, 0.5f};
      for (const float weight : column.weights) {
        sum += weight * Load4(from);
        from += 3;
      }
      for (int channel = 0; channel < 3; ++channel) *out++ = static_cast<uint8_t>(sum[channel]);
    }
  }
  return absl::OkStatus();
}

}  // namespace ham::trainer
