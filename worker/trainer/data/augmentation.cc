#include "worker/trainer/data/augmentation.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/trainer/counter_rng.h"

namespace ham::trainer {
namespace {

const std::array<float, 256>& PixelTable() {
  static const std::array<float, 256> table = [] {
    std::array<float, 256> values;
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) / 255.0f;
    return values;
  }();
  return table;
}

// Index in [0, size) that `i`, up to size - 1 outside, stands for; -1 for a zero.
int64_t PaddedIndex(int64_t i, int64_t size, Padding padding) {
  if (i >= 0 && i < size) return i;
  if (padding == Padding::kZero) return -1;
  return i < 0 ? -i : 2 * (size - 1) - i;
}

// What is done to one image.
struct Choice {
  int64_t top = 0, left = 0;  // of the crop in the image, -crop_padding to crop_padding
  bool flip = false;
  int64_t cut_row = 0, cut_column = 0;  // centre
};

Choice Choose(const AugmentationOptions& options, const AugmentationKey& key, uint32_t id, const ImageSet& data) {
  const RandomKey random{
      .seed = key.seed, .purpose = RandomPurpose::kAugmentation, .epoch = key.epoch, .sample = id, .step = 0};
  const auto words = RandomWords(random, 0);
  Choice out;
  out.top = RandomBelow(words[0], 2 * int64_t{options.crop_padding} + 1) - options.crop_padding;
  out.left = RandomBelow(words[1], 2 * int64_t{options.crop_padding} + 1) - options.crop_padding;
  out.flip = options.flip && (words[2] & 1) != 0;
  if (options.cutout > 0) {
    const auto cut = RandomWords(random, 1);
    out.cut_row = RandomBelow(cut[0], data.height);
    out.cut_column = RandomBelow(cut[1], data.width);
  }
  return out;
}

// Writes one image, [H, W, C]. padded: (W + 2 * crop_padding) * C bytes to work in.
template <int kChannels>
void WriteImage(const uint8_t* image, int64_t height, int64_t width, const AugmentationOptions& options,
                const Choice& choice, uint8_t* padded, float* out) {
  const float* const table = PixelTable().data();
  const int64_t padding = options.crop_padding, row_bytes = width * kChannels;
  for (int64_t y = 0; y < height; ++y, out += row_bytes) {
    const int64_t source = PaddedIndex(y + choice.top, height, options.padding);
    if (source < 0) {
      std::fill_n(out, row_bytes, 0.0f);
      continue;
    }
    const uint8_t* row = image + source * row_bytes;
    if (padding > 0) {
      std::memcpy(padded + padding * kChannels, row, static_cast<size_t>(row_bytes));
      for (int64_t i = 1; i <= padding; ++i) {
        uint8_t* const before = padded + (padding - i) * kChannels;
        uint8_t* const after = padded + (padding + width - 1 + i) * kChannels;
        for (int c = 0; c < kChannels; ++c) {
          const bool reflects = options.padding == Padding::kReflect;
          before[c] = reflects ? row[i * kChannels + c] : uint8_t{0};
          after[c] = reflects ? row[(width - 1 - i) * kChannels + c] : uint8_t{0};
        }
      }
      row = padded + (padding + choice.left) * kChannels;
    }
    if (choice.flip) {
      for (int64_t x = 0; x < width; ++x) {
        for (int c = 0; c < kChannels; ++c) out[x * kChannels + c] = table[row[(width - 1 - x) * kChannels + c]];
      }
    } else {
      for (int64_t i = 0; i < row_bytes; ++i) out[i] = table[row[i]];
    }
  }
}

void CutOut(const Choice& choice, int64_t side, const ImageSet& data, float* image) {
  const int64_t top = choice.cut_row - side / 2, left = choice.cut_column - side / 2;
  const int64_t first = std::max<int64_t>(left, 0), last = std::min(left + side, data.width);
  for (int64_t y = std::max<int64_t>(top, 0); y < std::min(top + side, data.height); ++y) {
    std::fill(image + (y * data.width + first) * data.channels, image + (y * data.width + last) * data.channels, 0.0f);
  }
}

}  // namespace

absl::Status CheckAugmentation(const AugmentationOptions& options, int64_t height, int64_t width) {
  const auto refuse = [&](const char* option, int value, int64_t most) {
    return absl::InvalidArgumentError(
        absl::StrCat(option, " is ", value, "; images of ", height, " x ", width, " pixels allow 0 to ", most));
  };
  const int64_t half = std::min(height, width) / 2, longer = std::max(height, width);
  if (options.crop_padding < 0 || options.crop_padding > half) {
    return refuse("crop_padding", options.crop_padding, half);
  }
  if (options.cutout < 0 || options.cutout > longer) return refuse("cutout", options.cutout, longer);
  return absl::OkStatus();
}

void WriteImages(const ImageSet& data, std::span<const uint32_t> ids, const AugmentationOptions& options,
                 const AugmentationKey& key, float* out) {
  const bool plain = options.crop_padding == 0 && !options.flip && options.cutout == 0;
  std::vector<uint8_t> padded(static_cast<size_t>((data.width + 2 * int64_t{options.crop_padding}) * data.channels));
  assert(data.channels == 1 || data.channels == 3);
  const auto write = data.channels == 1 ? WriteImage<1> : WriteImage<3>;
  for (const uint32_t id : ids) {
    const Choice choice = plain ? Choice{} : Choose(options, key, id, data);
    write(data.images.data() + int64_t{id} * data.row_bytes(), data.height, data.width, options, choice, padded.data(),
          out);
    if (options.cutout > 0) CutOut(choice, options.cutout, data, out);
    out += data.row_bytes();
  }
}

}  // namespace ham::trainer
