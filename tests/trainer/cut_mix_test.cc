#include "worker/trainer/data/cut_mix.h"

#include <cmath>
#include <numeric>

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include "tests/support/toy_images.h"
#include "worker/trainer/batch.h"

namespace ham::trainer {
namespace {

constexpr AugmentationKey kKey{.seed = 3, .epoch = 2};
const std::vector<uint32_t> kPartners = {4, 9, 17};

TEST(CutMixTest, MixesTheShareAskedForWithRowsOfTrainingOnly) {
  constexpr int kRows = 4000;
  int mixed = 0;
  double area = 0;
  for (uint32_t id = 0; id < kRows; ++id) {
    const CutMixBox box = ChooseCutMix(0.3, kKey, id, kPartners, 32, 24);
    if (box.empty()) continue;
    ++mixed;
    area += static_cast<double>((box.bottom - box.top) * (box.right - box.left)) / (32 * 24);
    EXPECT_TRUE(box.partner == 4 || box.partner == 9 || box.partner == 17);
    EXPECT_GE(box.top, 0);
    EXPECT_LE(box.bottom, 32);
    EXPECT_GE(box.left, 0);
    EXPECT_LE(box.right, 24);
  }
  EXPECT_NEAR(mixed / double{kRows}, 0.3, 0.03);  // a few boxes are smaller than a pixel
  EXPECT_NEAR(area / mixed, 0.35, 0.05);          // half, less what the border cuts off
  for (uint32_t id = 0; id < 100; ++id) EXPECT_TRUE(ChooseCutMix(0, kKey, id, kPartners, 32, 24).empty());
}

// Images of one brightness a row: pixels say whose they are.
class MixedBatchTest : public ::testing::Test {
 protected:
  static ImageSet Images() {
    std::vector<uint8_t> pixels;
    std::vector<int64_t> labels;
    for (int row = 0; row < 100; ++row) {
      pixels.insert(pixels.end(), 64, static_cast<uint8_t>(row));
      labels.push_back(row % 4);
    }
    return MakeImageSet(1, 8, 8, std::move(pixels), std::move(labels), {"a", "b", "c", "d"});
  }

  Batch Gather(const std::vector<uint32_t>& ids) const {
    return GatherAugmented(images_, ids, {.cutmix = 1}, kKey, kPartners);
  }

  const ImageSet images_ = Images();
};

TEST_F(MixedBatchTest, LabelsAreSharedAsPixelsAre) {
  std::vector<uint32_t> ids(100);
  std::iota(ids.begin(), ids.end(), 0);
  const Batch batch = Gather(ids);
  const float* targets = batch.targets.const_data_ptr<float>();
  int of_partner = 0;
  for (size_t row = 0; row < ids.size(); ++row) {
    float expected[4] = {};
    const float* pixels = batch.x[static_cast<int64_t>(row)].const_data_ptr<float>();
    for (int i = 0; i < 64; ++i) expected[images_.labels[std::lround(pixels[i] * 255)]] += 1.0f / 64;
    for (int k = 0; k < 4; ++k) EXPECT_NEAR(targets[row * 4 + k], expected[k], 1e-6) << "row " << row;
    const int64_t label = batch.labels.const_data_ptr<int64_t>()[row];
    for (int k = 0; k < 4; ++k) EXPECT_GE(expected[label], expected[k]);
    of_partner += label != images_.labels[ids[row]];
  }
  EXPECT_GT(of_partner, 0);  // some boxes cover more than half
}

TEST_F(MixedBatchTest, BelongsToTheRowNotToItsPlace) {
  const Batch all = Gather({0, 1, 2, 3}), some = Gather({3, 1});
  EXPECT_TRUE(at::equal(all.x[3], some.x[0]));
  EXPECT_TRUE(at::equal(all.targets[1], some.targets[1]));
  const Batch selected = SelectRows(all, {0, 1, 0, 1});
  EXPECT_TRUE(at::equal(selected.targets[0], some.targets[1]));
  const Batch padded = PadRows(Converted(some, at::kDouble));
  EXPECT_EQ(padded.targets.size(0), kMinimumRows);
  EXPECT_EQ(padded.targets.scalar_type(), at::kDouble);
  EXPECT_TRUE(at::equal(padded.targets[kMinimumRows - 1], padded.targets[0]));
}

}  // namespace
}  // namespace ham::trainer
