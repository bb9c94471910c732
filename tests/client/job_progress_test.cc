#include "client/job_progress.h"

#include <gtest/gtest.h>

namespace ham::client {
namespace {

ham::v1::WatchJobResponse TrainPoint(int attempt, int64_t second, int64_t iteration) {
  ham::v1::WatchJobResponse response;
  ham::v1::JobRecord* record = response.add_records();
  record->set_attempt(attempt);
  record->mutable_time()->set_seconds(second);
  record->mutable_metric()->set_iteration(iteration);
  record->mutable_metric()->set_epoch(1);
  record->mutable_metric()->mutable_train()->set_total_iterations(100);
  return response;
}

TEST(JobProgress, KnowsNothingBeforeTheFirstPoint) {
  const JobProgress progress;
  EXPECT_EQ(DoneShare(progress), 0);
  EXPECT_EQ(TimeLeft(progress), std::nullopt);
}

TEST(JobProgress, ExtrapolatesThePaceOfThisAttempt) {
  JobProgress progress;
  Apply(TrainPoint(1, 100, 10), &progress);
  EXPECT_EQ(TimeLeft(progress), std::nullopt);
  Apply(TrainPoint(1, 110, 30), &progress);
  EXPECT_DOUBLE_EQ(DoneShare(progress), 0.3);
  EXPECT_EQ(TimeLeft(progress), absl::Seconds(35));
}

TEST(JobProgress, BeginsAnewWithAnAttemptAndIgnoresLateRecordsOfTheOneBefore) {
  JobProgress progress;
  Apply(TrainPoint(1, 100, 10), &progress);
  Apply(TrainPoint(1, 110, 60), &progress);
  Apply(TrainPoint(2, 200, 40), &progress);
  EXPECT_EQ(TimeLeft(progress), std::nullopt);
  Apply(TrainPoint(1, 201, 70), &progress);
  EXPECT_EQ(progress.iteration, 40);
  Apply(TrainPoint(2, 206, 70), &progress);
  EXPECT_EQ(TimeLeft(progress), absl::Seconds(6));
}

TEST(JobProgress, KeepsTheLastEvaluationOverAttempts) {
  JobProgress progress;
  ham::v1::WatchJobResponse response = TrainPoint(1, 1, 1);
  response.mutable_records(0)->mutable_metric()->mutable_evaluation()->set_clean_accuracy(0.5);
  Apply(response, &progress);
  Apply(TrainPoint(2, 2, 1), &progress);
  ASSERT_TRUE(progress.evaluation.has_value());
  EXPECT_EQ(progress.evaluation->clean_accuracy(), 0.5);
}

TEST(JobProgress, SurvivesNonsense) {
  JobProgress progress;
  ham::v1::WatchJobResponse response = TrainPoint(1, 5, 1000);
  response.mutable_records(0)->mutable_metric()->mutable_train()->set_total_iterations(-1);
  Apply(response, &progress);
  EXPECT_EQ(DoneShare(progress), 0);
  Apply(TrainPoint(1, 4, 2000), &progress);
  EXPECT_EQ(DoneShare(progress), 1);
  EXPECT_EQ(TimeLeft(progress), absl::ZeroDuration());
}

}  // namespace
}  // namespace ham::client
