#include "worker/trainer/data/augmentation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "worker/trainer/data/validation_split.h"

namespace ham::trainer {
namespace {

// Images whose bytes tell their place: row, y, x and channel, never 0.
ImageSet Numbered(int64_t rows, int64_t channels, int64_t height, int64_t width) {
  std::vector<uint8_t> images;
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t i = 0; i < height * width * channels; ++i)
      images.push_back(static_cast<uint8_t>(1 + (n * 31 + i) % 255));
  }
  return MakeImageSet(channels, height, width, std::move(images), std::vector<int64_t>(rows), {"a"});
}

std::vector<float> Write(const ImageSet& data, const std::vector<uint32_t>& ids, const AugmentationOptions& options,
                         const AugmentationKey& key = {.seed = 3, .epoch = 2}) {
  std::vector<float> out(ids.size() * data.row_bytes(), -1);
  WriteImages(data, ids, options, key, out.data());
  return out;
}

// The image one pixel at a time: crop at (top, left) in the padded image, then flip.
std::vector<float> Reference(const ImageSet& data, int64_t id, int64_t padding, Padding kind, int64_t top, int64_t left,
                             bool flip) {
  std::vector<float> out;
  const auto place = [kind](int64_t i, int64_t size) {
    if (i >= 0 && i < size) return i;
    return kind == Padding::kZero ? -1 : i < 0 ? -i : 2 * (size - 1) - i;
  };
  for (int64_t y = 0; y < data.height; ++y) {
    for (int64_t x = 0; x < data.width; ++x) {
      const int64_t from_y = place(y + top - padding, data.height);
      const int64_t from_x = place((flip ? data.width - 1 - x : x) + left - padding, data.width);
      for (int64_t c = 0; c < data.channels; ++c) {
        const bool zero = from_y < 0 || from_x < 0;
        const int64_t at = id * data.row_bytes() + (from_y * data.width + from_x) * data.channels + c;
        out.push_back(zero ? 0.0f : static_cast<float>(data.images[at]) / 255.0f);
      }
    }
  }
  return out;
}

TEST(AugmentationTest, WithoutOptionsItDividesBy255) {
  std::vector<uint8_t> bytes(256);
  std::iota(bytes.begin(), bytes.end(), 0);
  const ImageSet data = MakeImageSet(1, 16, 16, bytes, {0}, {"a"});
  const std::vector<float> out = Write(data, {0}, {});
  for (int i = 0; i < 256; ++i) EXPECT_EQ(out[i], static_cast<float>(i) / 255.0f);
}

TEST(AugmentationTest, EveryCropAndFlipComesUpAboutEquallyOften) {
  for (const int64_t channels : {1, 3}) {
    for (const Padding kind : {Padding::kZero, Padding::kReflect}) {
      const ImageSet data = Numbered(1, channels, 6, 7);
      std::map<std::vector<float>, int> seen;
      constexpr int kEpochs = 5000;
      for (uint32_t epoch = 0; epoch < kEpochs; ++epoch) {
        ++seen[Write(data, {0}, {.crop_padding = 2, .padding = kind, .flip = true}, {.seed = 5, .epoch = epoch})];
      }
      EXPECT_EQ(seen.size(), 50U);
      for (int64_t top = 0; top < 5; ++top) {
        for (int64_t left = 0; left < 5; ++left) {
          for (const bool flip : {false, true}) {
            const int count = seen[Reference(data, 0, 2, kind, top, left, flip)];
            EXPECT_NEAR(count, kEpochs / 50, 45) << top << " " << left << " " << flip;
          }
        }
      }
    }
  }
}

TEST(AugmentationTest, CutoutIsASquareClippedAtTheBorder) {
  for (const int side : {1, 3, 4, 8}) {
    const ImageSet data = Numbered(1, 3, 8, 8);
    std::set<std::vector<float>> seen;
    for (uint32_t epoch = 0; epoch < 2000; ++epoch) {
      seen.insert(Write(data, {0}, {.cutout = side}, {.seed = 5, .epoch = epoch}));
    }
    std::set<std::vector<float>> expected;
    for (int64_t row = 0; row < 8; ++row) {
      for (int64_t column = 0; column < 8; ++column) {
        std::vector<float> image = Reference(data, 0, 0, Padding::kZero, 0, 0, false);
        for (int64_t y = 0; y < 8; ++y) {
          for (int64_t x = 0; x < 8; ++x) {
            const int64_t top = row - side / 2, left = column - side / 2;
            if (y < top || y >= top + side || x < left || x >= left + side) continue;
            std::fill_n(image.begin() + (y * 8 + x) * 3, 3, 0.0f);
          }
        }
        expected.insert(image);
      }
    }
    EXPECT_EQ(seen, expected) << side;
  }
}

TEST(AugmentationTest, DependsOnSeedEpochAndRowOnly) {
  const ImageSet data = Numbered(40, 3, 32, 32);
  const AugmentationOptions options{.crop_padding = 4, .flip = true, .cutout = 8};
  const std::vector<float> both = Write(data, {7, 30}, options);
  const std::vector<float> swapped = Write(data, {30, 1, 7}, options);
  EXPECT_TRUE(std::equal(both.begin(), both.begin() + 3072, swapped.begin() + 2 * 3072));
  EXPECT_TRUE(std::equal(both.begin() + 3072, both.end(), swapped.begin()));
  EXPECT_EQ(both, Write(data, {7, 30}, options));
  EXPECT_NE(both, Write(data, {7, 30}, options, {.seed = 4, .epoch = 2}));
  EXPECT_NE(both, Write(data, {7, 30}, options, {.seed = 3, .epoch = 3}));
}

TEST(AugmentationTest, OptionsThatMakeNoSenseAreRefused) {
  EXPECT_TRUE(CheckAugmentation({.crop_padding = 16, .cutout = 32}, 32, 32).ok());
  for (const AugmentationOptions& options :
       {AugmentationOptions{.crop_padding = 17}, AugmentationOptions{.crop_padding = -1}}) {
    const absl::Status status = CheckAugmentation(options, 32, 40);
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_NE(status.message().find("crop_padding is "), std::string::npos) << status;
    EXPECT_NE(status.message().find("0 to 16"), std::string::npos) << status;
  }
  EXPECT_NE(CheckAugmentation({.cutout = 41}, 32, 40).message().find("0 to 40"), std::string::npos);
  EXPECT_FALSE(CheckAugmentation({.cutout = -1}, 32, 40).ok());
}

std::vector<int64_t> ToyLabels() {
  std::vector<int64_t> labels;
  for (int64_t row = 0; row < 1000; ++row) labels.push_back(row % 10 == 0 ? 1 : row % 3 == 0 ? 2 : 0);
  labels.push_back(7);  // a class of one row
  labels.push_back(8);  // and one of two
  labels.push_back(8);
  return labels;
}

TEST(ValidationSplitTest, HoldsOutAShareOfEachClass) {
  const std::vector<int64_t> labels = ToyLabels();
  for (const double share : {0.0, 0.001, 0.1, 0.5, 0.999}) {
    const ValidationSplit split = SplitForValidation(labels, share);
    std::vector<uint32_t> all = split.train;
    all.insert(all.end(), split.validation.begin(), split.validation.end());
    EXPECT_TRUE(std::is_sorted(split.train.begin(), split.train.end()));
    EXPECT_TRUE(std::is_sorted(split.validation.begin(), split.validation.end()));
    std::sort(all.begin(), all.end());
    ASSERT_EQ(all.size(), labels.size());
    for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], i);
    std::map<int64_t, int64_t> rows, held_out;
    for (const int64_t label : labels) ++rows[label];
    for (const uint32_t row : split.validation) ++held_out[labels[row]];
    for (const auto& [label, count] : rows) {
      const int64_t wanted = std::lround(share * static_cast<double>(count));
      const int64_t least = share > 0 && count > 1 ? 1 : 0;
      EXPECT_EQ(held_out[label], std::clamp<int64_t>(wanted, least, count - 1)) << label << " at " << share;
    }
  }
}

TEST(ValidationSplitTest, ALargerShareHoldsOutTheSameAndMore) {
  const std::vector<int64_t> labels = ToyLabels();
  const ValidationSplit small = SplitForValidation(labels, 0.1), large = SplitForValidation(labels, 0.3);
  EXPECT_TRUE(std::includes(large.validation.begin(), large.validation.end(), small.validation.begin(),
                            small.validation.end()));
  EXPECT_EQ(SplitForValidation(labels, 0.1).validation, small.validation);
  std::vector<uint32_t> first(small.validation.size());
  std::iota(first.begin(), first.end(), 0);
  EXPECT_NE(small.validation, first);
  EXPECT_TRUE(SplitForValidation({}, 0.1).train.empty());
}

}  // namespace
}  // namespace ham::trainer
