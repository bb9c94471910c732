// Optimisers against PyTorch: optimizer.safetensors, made by make_optimizer.py beside it.
#include "worker/trainer/optimizer.h"

#include <cmath>

#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"
#include "worker/trainer/safetensors.h"

namespace ham::trainer {
namespace {

// As in make_optimizer.py; statistics and class bias, which no optimiser may touch, come behind.
std::vector<ParameterSpec> Specs() {
  std::vector<ParameterSpec> specs;
  specs.push_back({"conv.weight", {6}, {6}, ParameterKind::kWeight, {}});
  specs.push_back({"conv.bias", {2}, {2}, ParameterKind::kBias, {}});
  specs.push_back({"bn.weight", {2}, {2}, ParameterKind::kNorm, {}});
  specs.push_back({"bn.running_mean", {2}, {2}, ParameterKind::kStatistic, {}});
  specs.push_back(ClassBiasSpec(3));
  return specs;
}

struct Case {
  std::string name;
  OptimizerOptions options;
};

std::vector<Case> Cases() {
  constexpr auto kSgd = OptimizerKind::kSgd;
  constexpr auto kAdam = OptimizerKind::kAdam;
  constexpr auto kAdamW = OptimizerKind::kAdamW;
  return {
      {"sgd", {.name = kSgd, .weight_decay = 0.01}},
      {"sgd_no_momentum", {.name = kSgd, .momentum = 0, .weight_decay = 0.01}},
      {"sgd_nesterov", {.name = kSgd, .nesterov = true}},
      {"sgd_all",
       {.name = kSgd,
        .momentum = 0.8,
        .weight_decay = 0.05,
        .nesterov = true,
        .decay_norm_and_bias = false,
        .gradient_clip_norm = 1.5}},
      {"adam", {.name = kAdam, .weight_decay = 0.01}},
      {"adam_all", {.name = kAdam, .weight_decay = 0.05, .decay_norm_and_bias = false, .gradient_clip_norm = 1.5}},
      {"adamw", {.name = kAdamW, .weight_decay = 0.3}},
      {"adamw_all", {.name = kAdamW, .weight_decay = 0.3, .decay_norm_and_bias = false, .gradient_clip_norm = 1.5}},
  };
}

template <typename T>
void ExpectPyTorchs(const TensorMap& golden, const Case& test, double tolerance) {
  const at::ScalarType type = sizeof(T) == 8 ? at::kDouble : at::kFloat;
  const int64_t elements = golden.at("w").numel();
  ParameterSet weights(Specs(), type), gradients(Specs(), type);
  const auto fill = [&](const double* from, ParameterSet& to) {
    for (int64_t i = 0; i < to.size(); ++i)
      to.flat().template data_ptr<T>()[i] = static_cast<T>(i < elements ? from[i] : 7);
  };
  fill(golden.at("w").const_data_ptr<double>(), weights);
  Optimizer optimizer(test.options, Specs(), type);
  for (int64_t update = 0; update < golden.at("rates").numel(); ++update) {
    fill(golden.at("gradients").const_data_ptr<double>() + update * elements, gradients);
    optimizer.Update(gradients, GradientNorm(gradients), golden.at("rates").const_data_ptr<double>()[update], &weights);
    const double* expected = golden.at(test.name).const_data_ptr<double>() + update * elements;
    for (int64_t i = 0; i < weights.size(); ++i) {
      const double value = static_cast<double>(weights.flat().template data_ptr<T>()[i]);
      EXPECT_NEAR(value, i < elements ? expected[i] : 7, i < elements ? tolerance * (1 + std::abs(expected[i])) : 0)
          << test.name << ", update " << update << ", element " << i;
    }
  }
  EXPECT_EQ(optimizer.updates(), golden.at("rates").numel());
}

TEST(OptimizerGoldenTest, EveryUpdateIsPyTorchs) {
  const auto file = DecodeSafetensors(ham::testing::ReadTestFile(HAM_GOLDEN_DIR "/optimizer.safetensors"));
  ASSERT_TRUE(file.ok()) << file.status();
  for (const Case& test : Cases()) {
    ExpectPyTorchs<double>(file->tensors, test, 1e-15);
    ExpectPyTorchs<float>(file->tensors, test, 1e-6);
  }
}

}  // namespace
}  // namespace ham::trainer
