#include "worker/trainer/overfitting_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ham::trainer {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kRows = 1000;  // standard error of a difference at 50 %: 22 rows

class OverfittingWatchTest : public ::testing::Test {
 protected:
  bool Says(double train, int64_t validation) {
    const auto message = watch_.Add({measure_, ++epoch_, train, validation, kRows});
    if (message) message_ = *message;
    return message.has_value();
  }

  OverfittingWatch watch_;
  std::string measure_ = "all rows";
  int epoch_ = 0;
  std::string message_;
};

TEST_F(OverfittingWatchTest, SaysSoOnceAfterTwoEvaluationsBelowTheNoise) {
  EXPECT_FALSE(Says(0.5, 450));
  EXPECT_FALSE(Says(0.6, 500));
  EXPECT_FALSE(Says(0.7, 440));  // 60 below: more than two standard errors, but once
  EXPECT_TRUE(Says(0.8, 440));
  EXPECT_THAT(message_, HasSubstr("robust accuracy is 44.0 % after epoch 4 and was 50.0 % after epoch 2"));
  EXPECT_THAT(message_, HasSubstr("rose from 60.0 % to 80.0 %"));
  EXPECT_FALSE(Says(0.9, 400));
  EXPECT_FALSE(Says(0.9, 495));
  EXPECT_FALSE(Says(0.9, 400));
  EXPECT_FALSE(Says(0.9, 400));  // still of that best
}

TEST_F(OverfittingWatchTest, SaysSoAgainAfterANewBest) {
  for (const int64_t validation : {500, 400}) Says(0.5 + epoch_ / 10.0, validation);
  EXPECT_TRUE(Says(0.8, 400));
  EXPECT_FALSE(Says(0.8, 510));
  EXPECT_FALSE(Says(0.9, 410));
  EXPECT_TRUE(Says(0.9, 410));
}

TEST_F(OverfittingWatchTest, NoiseAndUnrobustTrainingAreNoOverfitting) {
  EXPECT_FALSE(Says(0.5, 500));
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(Says(0.8, 470)) << "30 rows are noise";
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(Says(0.4, 300)) << "training fell too";
  EXPECT_FALSE(Says(0.8, 300));
  EXPECT_FALSE(Says(0.8, 480));  // not in a row
  EXPECT_FALSE(Says(0.8, 300));
  EXPECT_TRUE(Says(0.8, 300));
}

// Mining counts easy rows as right: training jumps up, and HAM's validation falls.
TEST_F(OverfittingWatchTest, AnotherMeasureOfTrainingBeginsAnew) {
  EXPECT_FALSE(Says(0.5, 500));
  measure_ = "mining";
  EXPECT_FALSE(Says(0.8, 400));
  EXPECT_FALSE(Says(0.8, 395));
  EXPECT_FALSE(Says(0.8, 400));
  EXPECT_FALSE(Says(0.9, 340));
  EXPECT_TRUE(Says(0.9, 340));
}

TEST_F(OverfittingWatchTest, GoesOnFromACheckpoint) {
  Says(0.5, 500);
  Says(0.8, 400);
  watch_ = OverfittingWatch::FromJson(watch_.ToJson());
  EXPECT_TRUE(Says(0.8, 400));
  watch_ = OverfittingWatch::FromJson(watch_.ToJson());
  EXPECT_FALSE(Says(0.8, 400));
  EXPECT_THROW(OverfittingWatch::FromJson({{"epoch", 1}}), nlohmann::json::exception);
}

}  // namespace
}  // namespace ham::trainer
