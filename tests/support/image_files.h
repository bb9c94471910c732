// Small files in the formats of data sets, made for tests.
#pragma once

#include <gtest/gtest.h>
#include <matio.h>
#include <turbojpeg.h>

#include <cstdint>
#include <string>
#include <vector>

namespace ham::testing {

// A MAT 5 file with X, uint8 [32, 32, 3, labels.size()], and y. Pixel (h, w, c) of row n is MatPixel(n, h, w, c).
inline uint8_t MatPixel(size_t n, size_t h, size_t w, size_t c) {
  return static_cast<uint8_t>(n * 31 + h * 7 + w * 3 + c * 101);
}
inline void WriteMat5(const std::string& path, std::vector<double> labels, bool compress = true, size_t height = 32) {
  const size_t rows = labels.size();
  std::vector<uint8_t> x(height * 32 * 3 * rows);
  for (size_t n = 0, i = 0; n < rows; ++n) {
    for (size_t c = 0; c < 3; ++c) {
      for (size_t w = 0; w < 32; ++w) {
        for (size_t h = 0; h < height; ++h) x[i++] = MatPixel(n, h, w, c);
      }
    }
  }
  mat_t* const file = Mat_CreateVer(path.c_str(), nullptr, MAT_FT_MAT5);
  ASSERT_NE(file, nullptr);
  const auto compression = compress ? MAT_COMPRESSION_ZLIB : MAT_COMPRESSION_NONE;
  size_t x_shape[4] = {height, 32, 3, rows}, y_shape[2] = {rows, 1};
  for (matvar_t* variable : {Mat_VarCreate("X", MAT_C_UINT8, MAT_T_UINT8, 4, x_shape, x.data(), 0),
                             Mat_VarCreate("y", MAT_C_DOUBLE, MAT_T_DOUBLE, 2, y_shape, labels.data(), 0)}) {
    ASSERT_EQ(Mat_VarWrite(file, variable, compression), 0);
    Mat_VarFree(variable);
  }
  Mat_Close(file);
}

// A JPEG file of `pixels`, [height, width, channels] with channels 1 (grey), 3 (R G B) or 4 (CMYK).
inline std::string Jpeg(const std::vector<uint8_t>& pixels, int width, int height, int channels, int quality = 95) {
  const tjhandle handle = tjInitCompress();
  unsigned char* out = nullptr;
  unsigned long size = 0;  // NOLINT(google-runtime-int): TurboJPEG's
  const int format = channels == 1 ? TJPF_GRAY : channels == 3 ? TJPF_RGB : TJPF_CMYK;
  EXPECT_EQ(tjCompress2(handle, pixels.data(), width, 0, height, format, &out, &size,
                        channels == 1 ? TJSAMP_GRAY : TJSAMP_444, quality, 0),
            0);
  std::string bytes(reinterpret_cast<const char*>(out), size);
  tjFree(out);
  tjDestroy(handle);
  return bytes;
}

// A smooth picture: red grows to the right, green downwards, blue is 128.
inline std::vector<uint8_t> Ramp(int width, int height) {
  std::vector<uint8_t> pixels;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      pixels.insert(pixels.end(), {static_cast<uint8_t>(255 * x / (width - 1)),
                                   static_cast<uint8_t>(255 * y / (height - 1)), uint8_t{128}});
    }
  }
  return pixels;
}

}  // namespace ham::testing
