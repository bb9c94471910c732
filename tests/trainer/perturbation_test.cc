#include "worker/trainer/perturbation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/max.h>
#include <gtest/gtest.h>

#include "tests/support/toy_images.h"
#include "worker/trainer/device.h"

namespace ham::trainer {
namespace {

using ham::testing::ToyImages;

float StepOne(float clean, float x, float gradient, float epsilon, float step_size) {
  ProjectedStep({Norm::kLinf, epsilon}, step_size, &clean, &gradient, 1, 1, &x);
  return x;
}

TEST(LinfStepTest, MovesByTheSignOnly) {
  EXPECT_FLOAT_EQ(StepOne(0.5f, 0.5f, 1e-20f, 0.1f, 0.03f), 0.53f);
  EXPECT_FLOAT_EQ(StepOne(0.5f, 0.5f, -100, 0.1f, 0.03f), 0.47f);
  EXPECT_FLOAT_EQ(StepOne(0.5f, 0.5f, 0, 0.1f, 0.03f), 0.5f);
}

TEST(LinfStepTest, StaysInTheBallAndInTheImage) {
  EXPECT_FLOAT_EQ(StepOne(0.5f, 0.59f, 1, 0.1f, 0.03f), 0.6f);
  EXPECT_FLOAT_EQ(StepOne(0.5f, 0.41f, -1, 0.1f, 0.03f), 0.4f);
  EXPECT_EQ(StepOne(0.05f, 0.01f, -1, 0.1f, 0.03f), 0.0f);
  EXPECT_EQ(StepOne(0.95f, 0.99f, 1, 0.1f, 0.03f), 1.0f);
}

// Two images of two pixels.
class L2StepTest : public ::testing::Test {
 protected:
  void Step(std::vector<double> gradient, double radius, double step_size) {
    ProjectedStep({Norm::kL2, radius}, step_size, clean_.data(), gradient.data(), 2, 2, x_.data());
  }

  const std::vector<double> clean_ = {0.5, 0.5, 0.5, 0.95};
  std::vector<double> x_ = clean_;
};

TEST_F(L2StepTest, MovesEachImageByTheStepAlongItsGradient) {
  Step({3e-9, 4e-9, 0, 0}, 1, 0.1);
  EXPECT_NEAR(x_[0], 0.56, 1e-12);
  EXPECT_NEAR(x_[1], 0.58, 1e-12);
  EXPECT_EQ(x_[2], 0.5);  // no gradient: no move
  EXPECT_EQ(x_[3], 0.95);
}

TEST_F(L2StepTest, StaysInTheBallAndInTheImage) {
  Step({3, 4, 0, 1}, 0.2, 0.3);
  EXPECT_NEAR(x_[0], 0.62, 1e-12);  // moved 0.3, brought back to 0.2
  EXPECT_NEAR(x_[1], 0.66, 1e-12);
  EXPECT_EQ(x_[2], 0.5);
  EXPECT_EQ(x_[3], 1);
}

// What a network gives that is nearly sure, and one that diverged.
TEST(L2StepErrorTest, GradientsOfAnySizeLeaveImagesImages) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const auto& [gradient, expected] :
       std::vector<std::pair<float, float>>{{1e-41f, 0.6f}, {3e38f, 0.6f}, {nan, 0.5f}}) {
    const std::vector<float> clean = {0.5f, 0.5f}, slopes = {gradient, 0};
    std::vector<float> x = clean;
    ProjectedStep({Norm::kL2, 0.2}, 0.1, clean.data(), slopes.data(), 1, 2, x.data());
    EXPECT_NEAR(x[0], expected, 1e-6) << gradient;
    EXPECT_EQ(x[1], 0.5f);
  }
}

constexpr RandomKey kKey{.seed = 5, .purpose = RandomPurpose::kAttackStart, .epoch = 3};

TEST(RandomStartTest, NoiseBelongsToTheRowNotToItsPlace) {
  const ImageSet images = ToyImages(20, 1);
  for (const Norm norm : {Norm::kLinf, Norm::kL2}) {
    const at::Tensor a = RandomStart(GatherBatch(images, {1, 2, 3}), {norm, 0.1}, kKey);
    const at::Tensor b = RandomStart(GatherBatch(images, {3, 1}), {norm, 0.1}, kKey);
    EXPECT_TRUE(at::equal(a[0], b[1]));
    EXPECT_TRUE(at::equal(a[2], b[0]));
    EXPECT_FALSE(at::equal(a[0], a[1]));
  }
}

TEST(RandomStartTest, NoiseMadeAheadIsTheSame) {
  const Batch batch = GatherBatch(ToyImages(20, 1), {7, 3, 11});
  for (const Norm norm : {Norm::kLinf, Norm::kL2}) {
    for (const StartDistribution distribution : {StartDistribution::kUniform, StartDistribution::kNormal}) {
      const at::Tensor now = RandomStart(batch, {norm, 0.1}, kKey, distribution);
      const at::Tensor noise = StartNoise(batch.ids, {1, 8, 8}, {norm, 0.1}, kKey, distribution);
      EXPECT_TRUE(at::equal(StartFrom(batch.x, noise), now));
      const HostAsDevice as_device;
      EXPECT_TRUE(at::equal(RandomStart(batch, {norm, 0.1}, kKey, distribution), now));
    }
  }
}

// Distances from images that no clipping changes.
std::vector<double> Distances(const Ball& ball, StartDistribution distribution, int64_t rows, int64_t side) {
  const ImageSet images = MakeImageSet(1, side, side, std::vector<uint8_t>(rows * side * side, 127),
                                       std::vector<int64_t>(rows, 0), {"a", "b"});
  std::vector<uint32_t> ids(rows);
  for (int64_t row = 0; row < rows; ++row) ids[row] = static_cast<uint32_t>(row);
  const Batch batch = Converted(GatherBatch(images, ids), at::kDouble);
  const at::Tensor moved = RandomStart(batch, ball, kKey, distribution) - batch.x;
  std::vector<double> out;
  for (int64_t row = 0; row < rows; ++row) {
    const at::Tensor one = moved[row];
    out.push_back(ball.norm == Norm::kL2 ? std::sqrt((one * one).sum().item<double>())
                                         : one.abs().max().item<double>());
  }
  return out;
}

// In two dimensions the distance from the centre of a point uniform in a disc is below r with probability r^2. Images
// of 2 x 2 pixels have four.
TEST(RandomStartTest, IsUniformInTheL2Ball) {
  constexpr int64_t kRows = 4000;
  std::vector<double> distances = Distances({Norm::kL2, 0.3}, StartDistribution::kUniform, kRows, 2);
  std::sort(distances.begin(), distances.end());
  double largest_gap = 0;  // Kolmogorov and Smirnov's
  for (int64_t i = 0; i < kRows; ++i) {
    largest_gap = std::max(largest_gap, std::abs(std::pow(distances[i] / 0.3, 4) - (i + 0.5) / kRows));
  }
  EXPECT_LT(largest_gap, 1.63 / std::sqrt(kRows));  // 1 % level; the seed is fixed
  EXPECT_LE(distances.back(), 0.3 * (1 + 1e-6));
}

TEST(RandomStartTest, NormalNoiseOutsideTheBallIsMovedToIt) {
  for (const double distance : Distances({Norm::kL2, 0.004}, StartDistribution::kNormal, 50, 8)) {
    EXPECT_NEAR(distance, 0.004, 1e-8);  // its length is about 0.008
  }
  for (const double distance : Distances({Norm::kL2, 0.1}, StartDistribution::kNormal, 50, 8)) {
    EXPECT_NEAR(distance, 0.008, 0.004);
  }
  for (const double distance : Distances({Norm::kLinf, 0.001}, StartDistribution::kNormal, 50, 8)) {
    EXPECT_NEAR(distance, 0.001, 1e-8);
  }
}

}  // namespace
}  // namespace ham::trainer
