#include "worker/trainer/class_bias.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/max.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/toy_images.h"
#include "worker/trainer/pgd_attack.h"

namespace ham::trainer {
namespace {

using ham::testing::ToyModel;
using ::testing::DoubleNear;
using ::testing::ElementsAre;

std::vector<float> Values(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<float>(), tensor.const_data_ptr<float>() + tensor.numel()};
}

TEST(RunningClassBiasTest, RaisesTheClassesBelowTheMean) {
  ParameterSet weights({ClassBiasSpec(3)});
  RunningClassBias running(0.5, 0.75, 3);
  running.Update({10, 10, 0}, {8, 4, 0}, &weights);  // mean 0.6 of two classes: b = -0.1, 0.1, 0; centred already
  EXPECT_THAT(running.robust(), ElementsAre(0.8, 0.4, -1));
  EXPECT_THAT(Values(weights.class_bias()), ElementsAre(-0.1F, 0.1F, 0));
  running.Update({10, 0, 10}, {4, 0, 10}, &weights);  // r = 0.7, 0.4, 1; mean 0.7
  EXPECT_THAT(running.robust(), ElementsAre(DoubleNear(0.7, 1e-12), 0.4, 1));
  const std::vector<float> bias = Values(weights.class_bias());
  EXPECT_NEAR(bias[0], -0.1, 1e-6);
  EXPECT_NEAR(bias[1], 0.25, 1e-6);
  EXPECT_NEAR(bias[2], -0.15, 1e-6);
}

TEST(RunningClassBiasTest, DoesNothingBeforeItSawARow) {
  ParameterSet weights({ClassBiasSpec(2)});
  RunningClassBias(0.5, 0.75, 2).Update({0, 0}, {0, 0}, &weights);
  EXPECT_THAT(Values(weights.class_bias()), ElementsAre(0, 0));
}

TEST(ClassBiasTest, IsPartOfLogitsAttackAndLoss) {
  const auto model = ToyModel();
  ParameterSet weights(model->parameters());
  weights.Initialize(3);
  at::Tensor x = NewImages(kMinimumRows, model->image_shape());
  x.copy_(at::rand(x.sizes()));
  const at::Tensor plain = model->Logits(weights, x);
  const at::Tensor bias = at::rand({model->classes()});
  weights.class_bias().copy_(bias);
  EXPECT_TRUE(at::equal(model->Logits(weights, x), plain + bias));
  at::Tensor seen;
  const LogitsGradient loss = [&](const at::Tensor& logits) {
    seen = logits.clone();
    return at::zeros(logits.sizes());
  };
  model->InputGradient(weights, x, loss);
  EXPECT_TRUE(at::equal(seen, plain + bias));
  ParameterSet gradients(model->parameters());
  TrainingPass pass{.rows = kMinimumRows, .statistics = &gradients};
  model->WeightGradients(weights, x, loss, &pass, &gradients);
  EXPECT_TRUE(at::equal(seen, plain + bias));
}

TEST(ClassBiasTest, ExportsAreFoldedAndCheckpointsComeBackBitForBit) {
  const auto model = ToyModel();
  ParameterSet weights(model->parameters()), again(model->parameters()), foreign(model->parameters());
  weights.Initialize(3);
  weights.class_bias().copy_(at::rand({model->classes()}));
  TensorMap exported, state;
  weights.Export("", &exported);
  const std::string output = OutputBias(*model);
  FoldClassBias(output, &exported, &state);
  EXPECT_FALSE(exported.contains("class_bias"));

  at::Tensor x = NewImages(kMinimumRows, model->image_shape());
  x.copy_(at::rand(x.sizes()));
  TensorMap loaded = exported;
  UnfoldClassBias(output, {}, &loaded);  // as whoever has the exported file alone
  ASSERT_TRUE(foreign.Import("", loaded).ok());
  EXPECT_TRUE((model->Logits(foreign, x) - model->Logits(weights, x)).abs().max().item<float>() < 1e-6);

  loaded = exported;
  UnfoldClassBias(output, state, &loaded);
  ASSERT_TRUE(again.Import("", loaded).ok());
  EXPECT_TRUE(at::equal(again.flat(), weights.flat()));
}

}  // namespace
}  // namespace ham::trainer
