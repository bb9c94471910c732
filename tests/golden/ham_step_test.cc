// One HAM step against PyTorch: ham_step.safetensors, made by make_ham_step.py beside it.
#include "worker/trainer/ham_step.h"
#include "worker/trainer/class_bias.h"

#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/item.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"
#include "worker/trainer/models/small_cnn.h"
#include "worker/trainer/pgd_attack.h"
#include "worker/trainer/safetensors.h"

namespace ham::trainer {
namespace {

// As in make_ham_step.py.
constexpr int64_t kRows = 40, kSize = 12;
constexpr double kEpsilon = 0.1, kStepSize = 0.03;
constexpr int kSteps = 5, kMiningStep = 2, kMarginSteps = 3;

class HamStepTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto file = DecodeSafetensors(ham::testing::ReadTestFile(HAM_GOLDEN_DIR "/ham_step.safetensors"));
    ASSERT_TRUE(file.ok()) << file.status();
    golden_ = file->tensors;
    TensorMap reference = golden_;
    UnfoldClassBias("fc2.bias", {}, &reference);
    ASSERT_TRUE(weights_.Import("", reference).ok());
    batch_.x = Images("x");
    batch_.labels = golden_.at("y");
    for (uint32_t i = 0; i < kRows; ++i) batch_.ids.push_back(i);
    spec_.attack = {kEpsilon, kStepSize, kSteps, true};
    spec_.method = {Method::kHam, kMiningStep, 1, 0, 1};
  }

  at::Tensor Images(const std::string& name) const {
    const at::Tensor& values = golden_.at(name);
    at::Tensor out = NewImages(values.size(0), {1, kSize, kSize});
    out.copy_(values);
    return out;
  }

  at::Tensor AscendAll(AttackLoss loss, int steps) {
    passes_.Freeze(weights_);
    return *Ascend(passes_, batch_, Images("start"), {loss, {Norm::kLinf, kEpsilon}, kStepSize, steps}, [] {});
  }

  StepContext Context() {
    return {spec_, 1, passes_, *ranks_, [] {}};
  }

  absl::StatusOr<AttackedBatch> Attack() {
    return AttackAndMine(Context(), &weights_, batch_, Images("start"), &sums_.counts);
  }

  // Pixels are sums of a few steps: equal unless a sign or a clip differs.
  static void ExpectSamePixels(const at::Tensor& actual, const at::Tensor& expected) {
    ASSERT_EQ(actual.sizes(), expected.sizes());
    EXPECT_TRUE(at::allclose(actual, expected, 0, 1e-6));
  }

  const std::unique_ptr<Model> model_ =
      MakeSmallCnn({.image = {1, kSize, kSize}, .conv1 = 4, .conv2 = 8, .hidden = 16, .classes = 10});
  ParameterSet weights_{model_->parameters()};
  NetworkPasses passes_{*model_, weights_};
  TensorMap golden_;
  Batch batch_;
  TrainSpec spec_;
  const std::unique_ptr<Collective> ranks_ = MakeLocalCollective();
  const StepCounts no_counts_{10, kMiningStep, 1};
  StepSums sums_{.rows = kRows, .counts = no_counts_};
};

TEST_F(HamStepTest, AttackIsPyTorchs) {
  ExpectSamePixels(AscendAll(AttackLoss::kCrossEntropy, 1), golden_.at("x_1"));
  ExpectSamePixels(AscendAll(AttackLoss::kMargin, kMarginSteps), golden_.at("x_margin"));
}

TEST_F(HamStepTest, MiningLossAndEveryGradientArePyTorchs) {
  const auto attacked = Attack();
  ASSERT_TRUE(attacked.ok()) << attacked.status();
  ExpectSamePixels(attacked->x_mined, golden_.at("x_mined"));
  const at::Tensor& hard = golden_.at("hard");
  for (int64_t row = 0; row < kRows; ++row) {
    EXPECT_EQ(attacked->mined.is_hard[row], hard.const_data_ptr<int64_t>()[row]) << row;
  }
  EXPECT_EQ(attacked->mined.keep, attacked->mined.is_hard);
  ExpectSamePixels(attacked->kept.x, golden_.at("x_adv"));
  EXPECT_TRUE(at::allclose(PaddedLogits(*model_, weights_, attacked->kept.x), golden_.at("logits"), 1e-4, 1e-5));

  GradientReducer reducer(model_->parameters(), no_counts_);
  sums_.hard_rows = attacked->mined.hard_count;
  sums_.kept_rows = attacked->kept.rows();
  ASSERT_TRUE(ComputeGradients(Context(), weights_, *attacked, &reducer.gradients(), &sums_).ok());
  auto global = reducer.Reduce(sums_, *ranks_);
  ASSERT_TRUE(global.ok()) << global.status();
  EXPECT_NEAR(global->Get().loss / global->Get().weight, golden_.at("loss").item<float>(), 1e-5);
  TensorMap gradients;
  reducer.gradients().Export("gradient.", &gradients);
  gradients.erase("gradient.class_bias");
  for (const auto& [name, gradient] : gradients) {
    EXPECT_TRUE(at::allclose(gradient, golden_.at(name), 1e-4, 1e-6)) << name;
  }
}

TEST_F(HamStepTest, BeforeMiningStartsEveryRowIsAttackedAndKept) {
  spec_.method.mining_start_epoch = 2;
  const auto attacked = Attack();
  ASSERT_TRUE(attacked.ok());
  EXPECT_EQ(attacked->kept.rows(), kRows);
  EXPECT_EQ(attacked->mined.hard_count, kRows);
  EXPECT_TRUE(at::equal(attacked->kept.x, AscendAll(AttackLoss::kCrossEntropy, kSteps)));
}

TEST_F(HamStepTest, RetainedEasyRowsGoOnWithTheAttack) {
  spec_.method.retained_easy_share = 1;
  const auto attacked = Attack();
  ASSERT_TRUE(attacked.ok());
  EXPECT_LT(attacked->mined.hard_count, kRows);
  EXPECT_EQ(attacked->kept.rows(), kRows);
  EXPECT_TRUE(at::equal(attacked->kept.x, AscendAll(AttackLoss::kCrossEntropy, kSteps)));
}

TEST_F(HamStepTest, NoKeptRowGivesZeroGradients) {
  ParameterSet gradients(model_->parameters());
  gradients.Initialize(1);
  const AttackedBatch none{SelectRows(batch_, std::vector<uint8_t>(kRows, 0)), {}, {}, {}};
  ASSERT_TRUE(ComputeGradients(Context(), weights_, none, &gradients, &sums_).ok());
  EXPECT_TRUE(at::equal(gradients.flat(), at::zeros_like(gradients.flat())));
  EXPECT_EQ(sums_.weight, 0);
}

TEST(SkipRuleTest, ComesFromGlobalSumsOnly) {
  TrainSpec spec;
  spec.method = {Method::kHam, 2, 2, 0, 5};
  const auto skipped = [&](int epoch, const StepSums& sums) {
    return trainer::IsSkipped(NeededRows(spec, epoch), sums);
  };
  EXPECT_TRUE(skipped(2, {.kept_rows = 4}));
  EXPECT_FALSE(skipped(2, {.kept_rows = 5}));
  EXPECT_FALSE(skipped(1, {.kept_rows = 4}));  // minimum_hard is about mining
  EXPECT_TRUE(skipped(1, {.kept_rows = 0}));
  EXPECT_TRUE(skipped(2, {.kept_rows = 9, .finite = false}));
  spec.method.name = Method::kPgdAt;
  EXPECT_FALSE(skipped(2, {.kept_rows = 4}));
}

}  // namespace
}  // namespace ham::trainer
