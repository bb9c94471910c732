#include "worker/trainer/pgd_attack.h"

#include <algorithm>
#include <cmath>

#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "tests/support/toy_images.h"
#include "worker/trainer/attack_loss.h"
#include "worker/trainer/batch.h"

namespace ham::trainer {
namespace {

using ham::testing::ToyImages;
using ham::testing::ToyModel;

TEST(AttackLossGradientTest, CrossEntropyIsSoftmaxMinusOneHot) {
  const at::Tensor logits = at::tensor({0.0f, std::log(3.0f), 7.0f, 7.0f}).view({2, 2});
  const at::Tensor gradient =
      AttackLossGradient(AttackLoss::kCrossEntropy, logits, at::tensor({int64_t{1}, int64_t{0}}));
  const float* g = gradient.const_data_ptr<float>();
  EXPECT_NEAR(g[0], 0.25, 1e-6);
  EXPECT_NEAR(g[1], -0.25, 1e-6);
  EXPECT_NEAR(g[2], -0.5, 1e-6);
  EXPECT_NEAR(g[3], 0.5, 1e-6);
}

TEST(AttackLossGradientTest, CrossEntropyOfMixedLabelsIsSoftmaxMinusTargets) {
  const at::Tensor logits = at::tensor({0.0f, std::log(3.0f)}).view({1, 2});
  const at::Tensor gradient = AttackLossGradient(AttackLoss::kCrossEntropy, logits, at::tensor({int64_t{1}}),
                                                 at::tensor({0.4f, 0.6f}).view({1, 2}));
  EXPECT_NEAR(gradient.const_data_ptr<float>()[0], 0.25 - 0.4, 1e-6);
  EXPECT_NEAR(gradient.const_data_ptr<float>()[1], 0.75 - 0.6, 1e-6);
}

TEST(AttackLossGradientTest, MarginPullsTheBestOtherClassUp) {
  const at::Tensor logits = at::tensor({1.0f, 5.0f, 3.0f, 9.0f, 2.0f, 2.0f}).view({2, 3});
  const at::Tensor gradient = AttackLossGradient(AttackLoss::kMargin, logits, at::tensor({int64_t{1}, int64_t{0}}));
  EXPECT_TRUE(at::equal(gradient, at::tensor({0.0f, -1.0f, 1.0f, -1.0f, 1.0f, 0.0f}).view({2, 3})));
}

constexpr Ball kBall{Norm::kLinf, 0.1};

class AscendTest : public ::testing::Test {
 protected:
  AscendTest() { weights_.Initialize(1); }

  at::Tensor Run(const Batch& batch, int steps) {
    const at::Tensor start = RandomStart(batch, kBall, {.seed = 1, .purpose = RandomPurpose::kAttackStart, .epoch = 1});
    NetworkPasses passes(*model_, weights_);
    return *Ascend(passes, batch, start, {AttackLoss::kCrossEntropy, kBall, 0.03, steps}, [this] { ++ticks_; });
  }

  const ImageSet images_ = ToyImages(64, 1);
  const std::unique_ptr<Model> model_ = ToyModel();
  ParameterSet weights_{model_->parameters()};
  int ticks_ = 0;
};

TEST_F(AscendTest, StaysWithinEpsilonAndRaisesTheLoss) {
  std::vector<uint32_t> ids(64);
  for (uint32_t i = 0; i < 64; ++i) ids[i] = i;
  const Batch batch = GatherBatch(images_, ids);
  const at::Tensor x = Run(batch, 6);
  EXPECT_EQ(ticks_, 6);
  const float* clean = batch.x.const_data_ptr<float>();
  const float* moved = x.const_data_ptr<float>();
  for (int64_t i = 0; i < x.numel(); ++i) {
    ASSERT_LE(std::abs(moved[i] - clean[i]), 0.1f + 1e-6f);
    ASSERT_GE(moved[i], 0);
    ASSERT_LE(moved[i], 1);
  }
  const auto true_logit = [&](const at::Tensor& at) {
    const at::Tensor logits = PaddedLogits(*model_, weights_, at);
    double sum = 0;
    for (int64_t row = 0; row < 64; ++row) {
      const at::Tensor p = logits[row];
      sum += p[batch.labels.const_data_ptr<int64_t>()[row]].item<float>() - p.mean().item<float>();
    }
    return sum;
  };
  EXPECT_LT(true_logit(x), true_logit(batch.x));
}

TEST_F(AscendTest, ARowDoesNotDependOnTheRowsBesideIt) {
  std::vector<uint32_t> ids(40);
  for (uint32_t i = 0; i < 40; ++i) ids[i] = i;
  const at::Tensor together = Run(GatherBatch(images_, ids), 5);
  const at::Tensor few = Run(GatherBatch(images_, {3, 21}), 5);  // padded
  EXPECT_EQ(few.size(0), 2);
  EXPECT_TRUE(at::equal(few[0], together[3]));
  EXPECT_TRUE(at::equal(few[1], together[21]));
}

TEST_F(AscendTest, NoRowsGiveNoRows) {
  const Batch none = GatherBatch(images_, {});
  EXPECT_EQ(Run(none, 3).size(0), 0);
  EXPECT_EQ(PaddedLogits(*model_, weights_, none.x).size(0), 0);
}

TEST(BatchTest, RanksShareTheGlobalBatchRowByRow) {
  const std::vector<uint32_t> order = {9, 8, 7, 6, 5, 4, 3};
  EXPECT_EQ(RankRows(order, 0, 4, 0, 2), (std::vector<uint32_t>{9, 7}));
  EXPECT_EQ(RankRows(order, 0, 4, 1, 2), (std::vector<uint32_t>{8, 6}));
  EXPECT_EQ(RankRows(order, 4, 4, 0, 2), (std::vector<uint32_t>{5, 3}));
  EXPECT_EQ(RankRows(order, 4, 4, 1, 2), (std::vector<uint32_t>{4}));
  EXPECT_EQ(RankRows(order, 4, 4, 3, 4), (std::vector<uint32_t>{}));
}

TEST(BatchTest, SelectsRowsInOrder) {
  const ImageSet images = ToyImages(5, 1);
  const Batch batch = GatherBatch(images, {4, 0, 2});
  const Batch some = SelectRows(batch, {1, 0, 1});
  EXPECT_EQ(some.ids, (std::vector<uint32_t>{4, 2}));
  EXPECT_TRUE(at::equal(some.x[1], batch.x[2]));
  EXPECT_EQ(some.labels.const_data_ptr<int64_t>()[1], images.labels[2]);
}

}  // namespace
}  // namespace ham::trainer
