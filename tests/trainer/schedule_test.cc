#include "worker/trainer/schedule.h"

#include <gtest/gtest.h>

namespace ham::trainer {
namespace {

constexpr int64_t kIterations = 100;
constexpr int kEpochs = 10;

double ByIteration(const OptimizerOptions& options, int64_t iteration) {
  return LearningRateAt(options, iteration, kIterations, 1, kEpochs);
}

double ByEpoch(const OptimizerOptions& options, int epoch, int epochs = kEpochs) {
  return LearningRateAt(options, 0, kIterations, epoch, epochs);
}

TEST(ScheduleTest, ConstantStays) {
  const OptimizerOptions options{.learning_rate = 0.3, .schedule = Schedule::kConstant};
  EXPECT_EQ(ByIteration(options, 0), 0.3);
  EXPECT_EQ(LearningRateAt(options, 99, 100, 10, 10), 0.3);
}

TEST(ScheduleTest, StepFallsAtTheStartOfEachMilestone) {
  const OptimizerOptions options{.learning_rate = 1, .schedule = Schedule::kStep, .milestones = {3, 5}, .gamma = 0.1};
  EXPECT_DOUBLE_EQ(ByEpoch(options, 2), 1);
  EXPECT_DOUBLE_EQ(ByEpoch(options, 3), 0.1);
  EXPECT_DOUBLE_EQ(ByEpoch(options, 4), 0.1);
  EXPECT_DOUBLE_EQ(ByEpoch(options, 5), 0.01);
}

// The published code: with t the 1-based epoch of 120, the rate while t / 120 < 0.5, a tenth while < 0.75, a hundredth
// while < 11 / 12, then a two-hundredth.
TEST(ScheduleTest, FactorsGiveHamsPublishedRecipe) {
  const OptimizerOptions options{
      .learning_rate = 0.1, .schedule = Schedule::kStep, .milestones = {60, 90, 110}, .factors = {0.1, 0.01, 0.005}};
  for (int epoch = 1; epoch <= 120; ++epoch) {
    const double expected = epoch < 60 ? 0.1 : epoch < 90 ? 0.01 : epoch < 110 ? 0.001 : 0.0005;
    EXPECT_DOUBLE_EQ(ByEpoch(options, epoch, 120), expected) << epoch;
  }
}

TEST(ScheduleTest, CosineFallsFromTheRateTowardsZero) {
  const OptimizerOptions options{.learning_rate = 2, .schedule = Schedule::kCosine};
  EXPECT_DOUBLE_EQ(ByIteration(options, 0), 2);
  EXPECT_DOUBLE_EQ(ByIteration(options, 50), 1);
  EXPECT_NEAR(ByIteration(options, 25), 1.7071067811865475, 1e-12);
  EXPECT_NEAR(ByIteration(options, 100), 0, 1e-12);
}

TEST(ScheduleTest, OneCycleRisesFromZeroAndFallsToZero) {
  const OptimizerOptions options{.learning_rate = 2, .schedule = Schedule::kOneCycle, .warmup_share = 0.2};
  EXPECT_DOUBLE_EQ(ByIteration(options, 0), 0);
  EXPECT_DOUBLE_EQ(ByIteration(options, 10), 1);
  EXPECT_DOUBLE_EQ(ByIteration(options, 20), 2);
  EXPECT_DOUBLE_EQ(ByIteration(options, 60), 1);
  EXPECT_DOUBLE_EQ(ByIteration(options, 100), 0);
}

TEST(ScheduleTest, ByEpochTheRateIsThatOfTheEpochsNumber) {
  const OptimizerOptions cosine{.learning_rate = 2, .schedule = Schedule::kCosine, .schedule_by = ScheduleBy::kEpoch};
  for (const int64_t iteration : {0, 49, 99}) {
    EXPECT_DOUBLE_EQ(LearningRateAt(cosine, iteration, kIterations, 5, kEpochs), 1);
  }
  EXPECT_NEAR(ByEpoch(cosine, 10), 0, 1e-12);
  const OptimizerOptions cycle{
      .learning_rate = 2, .schedule = Schedule::kOneCycle, .warmup_share = 0.2, .schedule_by = ScheduleBy::kEpoch};
  EXPECT_DOUBLE_EQ(ByEpoch(cycle, 1), 1);
  EXPECT_DOUBLE_EQ(ByEpoch(cycle, 2), 2);
  EXPECT_DOUBLE_EQ(ByEpoch(cycle, 6), 1);
}

}  // namespace
}  // namespace ham::trainer
