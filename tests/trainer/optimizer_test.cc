#include "worker/trainer/optimizer.h"

#include <cmath>

#include <gtest/gtest.h>

namespace ham::trainer {
namespace {

const std::vector<ParameterSpec> kSpecs = {{"w", {3}, {3}, ParameterKind::kWeight, {}}};
const std::vector<std::vector<float>> kGradients = {{0.5f, -1.0f, 0.0f}, {0.25f, 2.0f, 1e-3f}, {-1.0f, 0.1f, 0.0f}};

ParameterSet Values(const std::vector<float>& values) {
  ParameterSet out(kSpecs);
  std::copy(values.begin(), values.end(), out.flat().data_ptr<float>());
  return out;
}

TEST(OptimizerTest, GradientNormCountsWhatGradientsTrain) {
  std::vector<ParameterSpec> specs;
  specs.push_back({"w", {19}, {19}, ParameterKind::kWeight, {}});
  specs.push_back({"mean", {3}, {3}, ParameterKind::kStatistic, {}});
  specs.push_back(ClassBiasSpec(2));
  ParameterSet gradients(specs);
  for (int64_t i = 0; i < gradients.size(); ++i) gradients.flat().data_ptr<float>()[i] = i < 19 ? 1e30F : 3e38F;
  EXPECT_DOUBLE_EQ(GradientNorm(gradients), std::sqrt(19.0) * static_cast<double>(1e30F));
}

TEST(OptimizerTest, GoesOnExactlyFromExportedState) {
  for (const OptimizerKind kind : {OptimizerKind::kSgd, OptimizerKind::kAdam, OptimizerKind::kAdamW}) {
    const OptimizerOptions options{.name = kind};
    Optimizer first(options, kSpecs), second(options, kSpecs);
    ParameterSet a = Values({1, 2, 3});
    first.Update(Values(kGradients[0]), 1, 0.1, &a);
    TensorMap state;
    first.Export(&state);
    ASSERT_TRUE(second.Import(state, first.updates()).ok());
    ParameterSet b = a.Clone();
    first.Update(Values(kGradients[1]), 1, 0.1, &a);
    second.Update(Values(kGradients[1]), 1, 0.1, &b);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(a.flat().data_ptr<float>()[i], b.flat().data_ptr<float>()[i]);
    state.erase("momentum.w");
    EXPECT_EQ(second.Import(state, 1).code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace ham::trainer
