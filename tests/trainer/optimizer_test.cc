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

TEST(OptimizerTest, SgdFollowsPyTorchsFormula) {
  Optimizer optimizer({.name = OptimizerKind::kSgd, .momentum = 0.9, .weight_decay = 0.01}, kSpecs);
  ParameterSet weights = Values({1, 2, 3});
  std::vector<double> w = {1, 2, 3}, m = {0, 0, 0};
  for (size_t t = 0; t < kGradients.size(); ++t) {
    optimizer.Update(Values(kGradients[t]), 0.1, &weights);
    for (size_t i = 0; i < 3; ++i) {
      const double g = kGradients[t][i] + 0.01 * w[i];
      m[i] = t == 0 ? g : 0.9 * m[i] + g;
      w[i] -= 0.1 * m[i];
      EXPECT_NEAR(weights.flat().data_ptr<float>()[i], w[i], 1e-6) << "update " << t << " weight " << i;
    }
  }
}

TEST(OptimizerTest, AdamFollowsPyTorchsFormula) {
  Optimizer optimizer({.name = OptimizerKind::kAdam, .weight_decay = 0.01}, kSpecs);
  ParameterSet weights = Values({1, 2, 3});
  std::vector<double> w = {1, 2, 3}, m = {0, 0, 0}, v = {0, 0, 0};
  for (size_t t = 0; t < kGradients.size(); ++t) {
    optimizer.Update(Values(kGradients[t]), 0.1, &weights);
    for (size_t i = 0; i < 3; ++i) {
      const double g = kGradients[t][i] + 0.01 * w[i];
      m[i] = 0.9 * m[i] + 0.1 * g;
      v[i] = 0.999 * v[i] + 0.001 * g * g;
      const double step = static_cast<double>(t + 1);
      w[i] -= 0.1 / (1 - std::pow(0.9, step)) * m[i] / (std::sqrt(v[i]) / std::sqrt(1 - std::pow(0.999, step)) + 1e-8);
      EXPECT_NEAR(weights.flat().data_ptr<float>()[i], w[i], 1e-5) << "update " << t << " weight " << i;
    }
  }
  EXPECT_EQ(optimizer.updates(), 3);
}

TEST(OptimizerTest, GoesOnExactlyFromExportedState) {
  for (const OptimizerKind kind : {OptimizerKind::kSgd, OptimizerKind::kAdam}) {
    const OptimizerOptions options{.name = kind};
    Optimizer first(options, kSpecs), second(options, kSpecs);
    ParameterSet a = Values({1, 2, 3});
    first.Update(Values(kGradients[0]), 0.1, &a);
    TensorMap state;
    first.Export(&state);
    ASSERT_TRUE(second.Import(state, first.updates()).ok());
    ParameterSet b = a.Clone();
    first.Update(Values(kGradients[1]), 0.1, &a);
    second.Update(Values(kGradients[1]), 0.1, &b);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(a.flat().data_ptr<float>()[i], b.flat().data_ptr<float>()[i]);
    state.erase("momentum.w");
    EXPECT_EQ(second.Import(state, 1).code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(AverageTest, MovesByOneMinusDecay) {
  ParameterSet average = Values({1, 1, 1});
  UpdateAverage(0.75, Values({5, 1, -3}), &average);
  EXPECT_FLOAT_EQ(average.flat().data_ptr<float>()[0], 2);
  EXPECT_FLOAT_EQ(average.flat().data_ptr<float>()[1], 1);
  EXPECT_FLOAT_EQ(average.flat().data_ptr<float>()[2], 0);
}

}  // namespace
}  // namespace ham::trainer
