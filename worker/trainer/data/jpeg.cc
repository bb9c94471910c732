#include "worker/trainer/data/jpeg.h"

#include <turbojpeg.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "worker/trainer/data/source_files.h"

namespace ham::trainer {
namespace {

// Which source pixels make each result pixel along a side, and how much of each: `taps` from first[i] on.
struct Filter {
  int64_t taps = 0;
  std::vector<int64_t> first;
  std::vector<float> weights;  // [pixels, taps], each row's sum is 1
};

// Result pixels [begin, begin + count) of a side of `from` pixels that becomes `to`.
Filter TriangleFilter(int64_t from, int64_t to, int64_t begin, int64_t count) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double radius = std::max(scale, 1.0);  // enlarging: plain bilinear
  Filter out;
  out.taps = std::min(from, (static_cast<int64_t>(std::ceil(2 * radius)) + 1) / 2 * 2);  // even, for WeightRowsAvx2
  out.weights.resize(static_cast<size_t>(count * out.taps));
  float* weights = out.weights.data();
  for (int64_t i = begin; i < begin + count; ++i, weights += out.taps) {
    const double centre = (static_cast<double>(i) + 0.5) * scale;
    const auto first = std::clamp<int64_t>(static_cast<int64_t>(std::floor(centre - radius + 0.5)), 0, from - out.taps);
    out.first.push_back(first);
    const auto weight = [&](int64_t tap) {
      return std::max(0.0, 1 - std::abs((static_cast<double>(first + tap) + 0.5 - centre) / radius));
    };
    double sum = 0;
    for (int64_t tap = 0; tap < out.taps; ++tap) sum += weight(tap);
    for (int64_t tap = 0; tap < out.taps; ++tap) weights[tap] = static_cast<float>(weight(tap) / sum);
  }
  return out;
}

constexpr int kOne = 1 << 14;  // 1 of a row's weight: sums of bytes stay exact as integers and as float

// Weights as integers with the sum kOne.
void ToIntegers(const float* weights, int64_t taps, std::vector<int16_t>* out) {
  out->clear();
  int rest = kOne;
  for (int64_t tap = 0; tap < taps; ++tap) {
    out->push_back(static_cast<int16_t>(std::lround(weights[tap] * kOne)));
    rest -= out->back();
  }
  auto& largest = *std::max_element(out->begin(), out->end());
  largest = static_cast<int16_t>(largest + rest);
}

// sums[i] = the sum over j of weights[j] * rows[j * stride + i], for i from `begin`; exact.
void WeightRows(const uint8_t* rows, int64_t stride, const std::vector<int16_t>& weights, int64_t begin, int64_t count,
                float* sums) {
  for (int64_t i = begin; i < count; ++i) {
    int sum = 0;
    for (size_t j = 0; j < weights.size(); ++j) sum += weights[j] * rows[static_cast<int64_t>(j) * stride + i];
    sums[i] = static_cast<float>(sum);
  }
}

#ifdef __x86_64__
// The same of an even number of rows, 32 at a time as far as they go; returns how far.
__attribute__((target("avx2"))) int64_t WeightRowsAvx2(const uint8_t* rows, int64_t stride,
                                                       const std::vector<int16_t>& weights, int64_t count,
                                                       float* sums) {
  const auto* const pairs = reinterpret_cast<const std::array<int16_t, 2>*>(weights.data());
  const auto half = static_cast<int64_t>(weights.size() / 2);
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    __m256i sum0 = _mm256_setzero_si256(), sum1 = sum0, sum2 = sum0, sum3 = sum0;
    const uint8_t* row = rows + i;
    for (int64_t j = 0; j < half; ++j, row += 2 * stride) {
      const __m256i weight = _mm256_set1_epi32(std::bit_cast<int32_t>(pairs[j]));
      const auto add = [weight](__m128i bytes, __m256i sum) __attribute__((target("avx2"), always_inline)) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_cvtepu8_epi16(bytes), weight));
      };
      const auto* const first = reinterpret_cast<const __m128i*>(row);
      const auto* const second = reinterpret_cast<const __m128i*>(row + stride);
      const __m128i a0 = _mm_loadu_si128(first), a1 = _mm_loadu_si128(first + 1);
      const __m128i b0 = _mm_loadu_si128(second), b1 = _mm_loadu_si128(second + 1);
      sum0 = add(_mm_unpacklo_epi8(a0, b0), sum0);
      sum1 = add(_mm_unpackhi_epi8(a0, b0), sum1);
      sum2 = add(_mm_unpacklo_epi8(a1, b1), sum2);
      sum3 = add(_mm_unpackhi_epi8(a1, b1), sum3);
    }
    _mm256_storeu_ps(sums + i, _mm256_cvtepi32_ps(sum0));
    _mm256_storeu_ps(sums + i + 8, _mm256_cvtepi32_ps(sum1));
    _mm256_storeu_ps(sums + i + 16, _mm256_cvtepi32_ps(sum2));
    _mm256_storeu_ps(sums + i + 24, _mm256_cvtepi32_ps(sum3));
  }
  return i;
}
#endif

typedef float Float4 __attribute__((vector_size(16)));

Float4 Load4(const float* from) {
  Float4 out;
  std::memcpy(&out, from, sizeof(out));
  return out;
}

// One row of [columns, 3] becomes [pixels, 3] and one float more. kTaps: filter.taps, or 0 for any number.
template <int kTaps>
void WeightColumns(const Filter& filter, const float* row, float* result) {
  const int64_t taps = kTaps > 0 ? kTaps : filter.taps;
  const float* weights = filter.weights.data();
  for (const int64_t first : filter.first) {
    const float* const from = row + first * 3;
    Float4 sum = {0.5f, 0.5f, 0.5f, 0.5f};  // rounds where it becomes a byte
    for (int64_t tap = 0; tap < taps; ++tap) sum += weights[tap] * Load4(from + tap * 3);
    std::memcpy(result, &sum, sizeof(sum));  // the next pixel overwrites the fourth
    result += 3;
    weights += taps;
  }
}

// values are in [0, 256).
void ToBytes(const float* values, int64_t count, uint8_t* bytes) {
  for (int64_t i = 0; i < count; ++i) bytes[i] = static_cast<uint8_t>(static_cast<int>(values[i]));
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
  const Filter vertical = TriangleFilter(size->height, height, top, side);
  Filter horizontal = TriangleFilter(size->width, width, left, side);
  const int64_t first_column = horizontal.first.front();
  for (float& weight : horizontal.weights) weight /= kOne;
  for (int64_t& first : horizontal.first) first -= first_column;
  const int64_t floats = (horizontal.first.back() + horizontal.taps) * 3;
  const auto weight_columns = horizontal.taps == 4 ? WeightColumns<4> : WeightColumns<0>;
  // One row at a time, of the columns that are needed; one float more, as pixels are read and written by fours.
  row_.assign(static_cast<size_t>(floats + 1), 0);
  result_row_.assign(static_cast<size_t>(side * 3 + 1), 0);
  for (int64_t row = 0; row < side; ++row, out += side * 3) {
    ToIntegers(vertical.weights.data() + row * vertical.taps, vertical.taps, &row_weights_);
    const uint8_t* const source =
        pixels_.data() + (vertical.first[static_cast<size_t>(row)] * size->width + first_column) * 3;
    int64_t done = 0;
#ifdef __x86_64__
    if (vertical.taps % 2 == 0 && __builtin_cpu_supports("avx2")) {
      done = WeightRowsAvx2(source, size->width * 3, row_weights_, floats, row_.data());
    }
#endif
    WeightRows(source, size->width * 3, row_weights_, done, floats, row_.data());
    weight_columns(horizontal, row_.data(), result_row_.data());
    ToBytes(result_row_.data(), side * 3, out);
  }
  return absl::OkStatus();
}

}  // namespace ham::trainer
