#include "worker/trainer/precision.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ham::trainer {
namespace {

TEST(Precision, OnlyTheLayersOfBf16AreOfAnotherTypeThanTheWeights) {
  for (const auto& [precision, weights, layers] : {std::tuple{Precision::kFp32, at::kFloat, at::kFloat},
                                                   {Precision::kTf32, at::kFloat, at::kFloat},
                                                   {Precision::kFp64, at::kDouble, at::kDouble},
                                                   {Precision::kBf16, at::kFloat, at::kBFloat16}}) {
    const NumberTypes types = TypesOf(precision);
    EXPECT_EQ(types.weights, weights);
    EXPECT_EQ(types.layers, layers);
    EXPECT_EQ(types.tf32, precision == Precision::kTf32);
  }
}

TEST(Precision, Bf16AndTf32NeedCapability8) {
  EXPECT_EQ(CheckPrecision(Precision::kBf16, "Tesla T4", 75),
            absl::FailedPreconditionError(
                "precision is bf16, which the GPU Tesla T4 (compute capability 7.5) lacks: take one of compute "
                "capability 8.0 or newer, or set precision to fp32"));
  EXPECT_THAT(std::string(CheckPrecision(Precision::kTf32, "Tesla T4", 75).message()), ::testing::HasSubstr("is tf32"));
  for (const Precision precision : {Precision::kBf16, Precision::kTf32}) {
    EXPECT_TRUE(CheckPrecision(precision, "NVIDIA A100", 80).ok());
    EXPECT_TRUE(CheckPrecision(precision, "NVIDIA B200", 100).ok());
  }
  for (const Precision precision : {Precision::kFp32, Precision::kFp64}) {
    EXPECT_TRUE(CheckPrecision(precision, "Tesla T4", 75).ok());
  }
}

}  // namespace
}  // namespace ham::trainer
