// Labelled images as the trainer holds them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace ham::trainer {

// N images of H x W pixels in C channels. The bytes lie in memory or in a mapped file that all ranks of a host share;
// copies of an ImageSet share them too. Immutable; safe from any thread.
struct ImageSet {
  int64_t rows = 0;  // N
  int64_t channels = 0;
  int64_t height = 0;
  int64_t width = 0;
  std::span<const uint8_t> images;  // [N, H, W, C], 0 to 255: divide by 255 for pixels in [0, 1]
  std::span<const int64_t> labels;  // [N], in [0, class_names.size())
  std::vector<std::string> class_names;
  std::shared_ptr<const void> storage;  // what the spans lie in
  int64_t extra_rows = 0;               // the last of N are extra training data (npz.h), not the data set's own
  std::string digest = {};              // of a loaded set: lower-case hex SHA-256 of what it was read from
  std::string not_shared = {};          // of a loaded set: why other ranks hold copies of their own; "" if none does

  int64_t own_rows() const { return rows - extra_rows; }
  int64_t row_bytes() const { return channels * height * width; }
};

// A set that owns its bytes. `images` is [N, height, width, channels], N the number of labels.
inline ImageSet MakeImageSet(int64_t channels, int64_t height, int64_t width, std::vector<uint8_t> images,
                             std::vector<int64_t> labels, std::vector<std::string> class_names) {
  struct Storage {
    std::vector<uint8_t> images;
    std::vector<int64_t> labels;
  };
  auto storage = std::make_shared<const Storage>(Storage{std::move(images), std::move(labels)});
  return {static_cast<int64_t>(storage->labels.size()),
          channels,
          height,
          width,
          storage->images,
          storage->labels,
          std::move(class_names),
          storage};
}

}  // namespace ham::trainer
