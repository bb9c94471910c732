// Small .npz files, made for tests.
#pragma once

#include <gtest/gtest.h>
#include <zip.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace ham::testing {

// A .npy file of version 1.0; `dictionary` as NumPy writes it.
inline std::string Npy(const std::string& dictionary, const std::string& elements) {
  std::string out("\x93NUMPY\1\0", 8);
  const std::string text = dictionary + "\n";
  out += static_cast<char>(text.size() & 0xff);
  out += static_cast<char>(text.size() >> 8);
  return out + text + elements;
}

inline std::string NpyOf(const std::string& type, const std::string& shape, const std::string& elements) {
  return Npy(absl::StrCat("{'descr': '", type, "', 'fortran_order': False, 'shape': (", shape, "), }"), elements);
}

// Labels as int64.
inline std::string NpyLabels(const std::vector<int64_t>& labels) {
  return NpyOf("<i8", absl::StrCat(labels.size(), ","),
               {reinterpret_cast<const char*>(labels.data()), labels.size() * sizeof(int64_t)});
}

// Images [N, height, width, channels]; every byte of row n is `base` + n.
inline std::string NpyImages(int64_t rows, int64_t height, int64_t width, int64_t channels, char base) {
  std::string pixels;
  for (int64_t n = 0; n < rows; ++n) pixels.append(height * width * channels, static_cast<char>(base + n));
  return NpyOf("|u1", absl::StrCat(rows, ", ", height, ", ", width, ", ", channels), pixels);
}

// A zip archive of these files, names and contents, replacing what is at `path`.
inline void WriteZip(const std::string& path, const std::vector<std::pair<std::string, std::string>>& files,
                     bool compress = false) {
  zip_t* const archive = zip_open(path.c_str(), ZIP_CREATE | ZIP_TRUNCATE, nullptr);
  ASSERT_NE(archive, nullptr) << path;
  for (const auto& [name, bytes] : files) {
    zip_source_t* const source = zip_source_buffer(archive, bytes.data(), bytes.size(), 0);
    const zip_int64_t index = zip_file_add(archive, name.c_str(), source, 0);
    ASSERT_GE(index, 0) << name;
    const int method = compress ? ZIP_CM_DEFLATE : ZIP_CM_STORE;
    ASSERT_EQ(zip_set_file_compression(archive, static_cast<zip_uint64_t>(index), method, 0), 0);
  }
  ASSERT_EQ(zip_close(archive), 0) << path;
}

inline void WriteNpz(const std::string& path, const std::string& image, const std::string& label,
                     bool compress = false) {
  WriteZip(path, {{"image.npy", image}, {"label.npy", label}}, compress);
}

}  // namespace ham::testing
