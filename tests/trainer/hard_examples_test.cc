#include "worker/trainer/hard_examples.h"

#include <cmath>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "worker/trainer/ham_loss.h"

namespace ham::trainer {
namespace {

using ::testing::ElementsAre;

const at::Tensor kLogits = at::tensor({3.0f, 1.0f, 0.0f, 2.0f, 1.0f, 1.0f}).view({3, 2});
const at::Tensor kLabels = at::tensor({int64_t{0}, int64_t{0}, int64_t{0}});

TEST(HardExamplesTest, KeepsWhatIsMisclassified) {
  const auto mined = FindHardExamples(kLogits, kLabels, {0, 1, 2}, 1, 1, 0);
  ASSERT_TRUE(mined.ok());
  EXPECT_THAT(mined->is_hard, ElementsAre(0, 1, 0));  // the tie goes to the lowest label
  EXPECT_THAT(mined->keep, ElementsAre(0, 1, 0));
  EXPECT_EQ(mined->hard_count, 1);
  EXPECT_EQ(mined->kept_count, 1);
}

TEST(HardExamplesTest, ARowThatIsNotFiniteIsHardAndHasNoPrediction) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const at::Tensor logits = at::tensor({nan, nan, 1.0f, nan, inf, 1.0f, 2.0f, -inf, 1.0f, 0.0f}).view({5, 2});
  EXPECT_THAT(Predictions(logits), ElementsAre(-1, -1, -1, -1, 0));
  const auto mined = FindHardExamples(logits, at::zeros({5}, at::kLong), {0, 1, 2, 3, 4}, 1, 1, 0);
  ASSERT_TRUE(mined.ok());
  EXPECT_THAT(mined->is_hard, ElementsAre(1, 1, 1, 1, 0));
}

TEST(HardExamplesTest, NoHardRowIsNormal) {
  const auto mined = FindHardExamples(kLogits.narrow(0, 0, 1), kLabels.narrow(0, 0, 1), {5}, 1, 1, 0);
  ASSERT_TRUE(mined.ok());
  EXPECT_EQ(mined->kept_count, 0);
}

TEST(HardExamplesTest, RetainsTheAskedShareOfEasyRowsBySeedEpochAndId) {
  const int64_t rows = 4000;
  const at::Tensor logits = at::zeros({rows, 2});
  const at::Tensor labels = at::zeros({rows}, at::kLong);
  std::vector<uint32_t> ids(rows);
  for (uint32_t i = 0; i < rows; ++i) ids[i] = i;
  const auto mined = FindHardExamples(logits, labels, ids, 9, 2, 0.3);
  ASSERT_TRUE(mined.ok());
  EXPECT_EQ(mined->hard_count, 0);
  EXPECT_NEAR(static_cast<double>(mined->kept_count) / rows, 0.3, 0.03);
  // The same rows in another place are decided alike.
  const auto two = FindHardExamples(logits.narrow(0, 0, 2), labels.narrow(0, 0, 2), {1234, 77}, 9, 2, 0.3);
  EXPECT_EQ(two->keep[0], mined->keep[1234]);
  EXPECT_EQ(two->keep[1], mined->keep[77]);
  EXPECT_NE(FindHardExamples(logits, labels, ids, 9, 3, 0.3)->keep, mined->keep);
  EXPECT_EQ(FindHardExamples(logits, labels, ids, 9, 2, 1)->kept_count, rows);
}

TEST(HardExamplesTest, RefusesSizesThatDisagree) {
  EXPECT_EQ(FindHardExamples(kLogits, kLabels, {0, 1}, 1, 1, 0).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(HamLossTest, SumsOverRowsAndIgnoresPadding) {
  const LossSum sum = SumCrossEntropy(kLogits, kLabels, {1, 1});
  const double first = std::log(1 + std::exp(-2.0)), second = std::log(1 + std::exp(2.0));
  EXPECT_NEAR(sum.loss, first + second, 1e-6);
  EXPECT_EQ(sum.weight, 2);
  const float* g = sum.gradient.const_data_ptr<float>();
  EXPECT_NEAR(g[0], std::exp(-first) - 1, 1e-6);
  EXPECT_NEAR(g[1], 1 - std::exp(-first), 1e-6);
  EXPECT_EQ(g[4], 0);
  EXPECT_EQ(g[5], 0);
}

// Mixed labels are shares of the losses with whole ones, with label smoothing too.
TEST(HamLossTest, MixedLabelsMixLosses) {
  const at::Tensor logits = at::tensor({1.0, -0.5, 2.0}).view({1, 3});
  const at::Tensor targets = at::tensor({0.3, 0.0, 0.7}).view({1, 3});
  const LossSum mixed = SumCrossEntropy(logits, at::tensor({int64_t{2}}), {2}, 0.1, targets);
  const LossSum first = SumCrossEntropy(logits, at::tensor({int64_t{0}}), {2}, 0.1);
  const LossSum last = SumCrossEntropy(logits, at::tensor({int64_t{2}}), {2}, 0.1);
  EXPECT_NEAR(mixed.loss, 0.3 * first.loss + 0.7 * last.loss, 1e-12);
  EXPECT_TRUE(at::allclose(mixed.gradient, first.gradient * 0.3 + last.gradient * 0.7, 1e-12, 1e-12));
  EXPECT_EQ(mixed.weight, 2);
}

TEST(HamLossTest, NoRowsGiveZeroNotNan) {
  const LossSum sum = SumCrossEntropy(at::empty({0, 2}), at::empty({0}, at::kLong), {});
  EXPECT_EQ(sum.loss, 0);
  EXPECT_EQ(sum.weight, 0);
}

}  // namespace
}  // namespace ham::trainer
