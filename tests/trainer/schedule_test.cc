#include "worker/trainer/schedule.h"

#include <gtest/gtest.h>

namespace ham::trainer {
namespace {

TEST(ScheduleTest, ConstantStays) {
  const OptimizerOptions options{.learning_rate = 0.3, .schedule = Schedule::kConstant};
  EXPECT_EQ(LearningRateAt(options, 0, 100, 1), 0.3);
  EXPECT_EQ(LearningRateAt(options, 99, 100, 10), 0.3);
}

TEST(ScheduleTest, StepFallsAtTheStartOfEachMilestone) {
  const OptimizerOptions options{.learning_rate = 1, .schedule = Schedule::kStep, .milestones = {3, 5}, .gamma = 0.1};
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 0, 100, 2), 1);
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 0, 100, 3), 0.1);
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 0, 100, 4), 0.1);
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 0, 100, 5), 0.01);
}

TEST(ScheduleTest, CosineFallsFromTheRateTowardsZero) {
  const OptimizerOptions options{.learning_rate = 2, .schedule = Schedule::kCosine};
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 0, 100, 1), 2);
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 50, 100, 1), 1);
  EXPECT_NEAR(LearningRateAt(options, 25, 100, 1), 1.7071067811865475, 1e-12);
  EXPECT_NEAR(LearningRateAt(options, 100, 100, 1), 0, 1e-12);
}

TEST(ScheduleTest, OneCycleRisesFromZeroAndFallsToZero) {
  const OptimizerOptions options{.learning_rate = 2, .schedule = Schedule::kOneCycle, .warmup_share = 0.2};
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 0, 100, 1), 0);
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 10, 100, 1), 1);
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 20, 100, 1), 2);
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 60, 100, 1), 1);
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 100, 100, 1), 0);
}

}  // namespace
}  // namespace ham::trainer
