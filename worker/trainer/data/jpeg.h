// One JPEG file as a square of bytes, through TurboJPEG.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ham::trainer {

// Bounds on what a header may claim: memory is at most 3 bytes a pixel of the smaller one.
inline constexpr uint64_t kMaxJpegPixels = uint64_t{1} << 26;
inline constexpr uint64_t kMaxPixelsPerByte = 1024;  // of the file; a flat grey image needs one byte for about 170

struct JpegSize {
  int64_t height = 0;
  int64_t width = 0;
};

// Keeps its buffers between images. One thread at a time.
class JpegDecoder {
 public:
  JpegDecoder();
  ~JpegDecoder();
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  // Reads the header only. The errors of Decode, except for damage behind the header. `path` is for messages.
  absl::StatusOr<JpegSize> CheckHeader(const std::string& path, std::string_view bytes);

  // Writes [image_size, image_size, 3] bytes R G B to `out`: the short side resized to image_size with a triangle
  // filter as wide as the reduction (antialiased), then the centre cut out. Grey becomes three equal channels; a
  // profile or an orientation in the file is ignored. The same on every CPU; rounded from within 0.02 of the exact
  // sum (Pillow's BILINEAR rounds between its two passes: it may differ by 1). DataLoss for what is no JPEG, is cut or
  // damaged, is CMYK, or exceeds the bounds above.
  absl::Status Decode(const std::string& path, std::string_view bytes, int image_size, uint8_t* out);

 private:
  // [height, width, 3] in pixels_.
  absl::StatusOr<JpegSize> DecodePixels(const std::string& path, std::string_view bytes);

  void* const handle_;
  std::vector<uint8_t> pixels_;
  std::vector<int16_t> row_weights_;
  std::vector<float> row_;         // one row after the vertical pass, [columns, 3]
  std::vector<float> result_row_;  // and after the horizontal one, [image_size, 3]
};

}  // namespace ham::trainer
