#include "client/record_lines.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ham::client {
namespace {

using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(RecordLines, ShowsAnEventWithItsNewState) {
  ham::v1::JobRecord record;
  record.mutable_event()->set_from_state(ham::v1::Job::QUEUED);
  record.mutable_event()->set_to_state(ham::v1::Job::STARTING);
  record.mutable_event()->set_message("2 slots were found");
  EXPECT_THAT(RecordLines(record), ElementsAre(EndsWith("  STARTING: 2 slots were found")));
  record.mutable_event()->set_from_state(ham::v1::Job::STARTING);
  EXPECT_THAT(RecordLines(record), ElementsAre(EndsWith("  2 slots were found")));
}

TEST(RecordLines, ShowsTheLastTrainPointOfAnEpochOnly) {
  ham::v1::JobRecord record;
  record.mutable_metric()->set_epoch(3);
  ham::v1::TrainMetrics* train = record.mutable_metric()->mutable_train();
  train->set_loss(1.25);
  train->set_hard_share(0.25);
  train->set_kept_share(0.5);
  train->set_attack_seconds(3);
  train->set_train_seconds(1);
  EXPECT_THAT(RecordLines(record), IsEmpty());
  train->set_end_of_epoch(true);
  EXPECT_THAT(RecordLines(record),
              ElementsAre(HasSubstr("epoch 3: loss 1.2500, hard 25.0 %, kept 50.0 %, 0 images/s, attack 75.0 % of the "
                                    "time, learning rate")));
  train->set_model_flops_utilization(0.375);
  EXPECT_THAT(RecordLines(record), ElementsAre(HasSubstr(" of the time, MFU 37.5 %, learning rate")));
}

TEST(RecordLines, ShowsAverageAndWorstClassOfEverySuite) {
  ham::v1::JobRecord record;
  record.mutable_metric()->set_epoch(12);
  ham::v1::EvaluationMetrics* evaluation = record.mutable_metric()->mutable_evaluation();
  evaluation->set_rows(2000);
  evaluation->set_split("test");
  evaluation->set_clean_accuracy(0.83);
  evaluation->set_final(true);
  ham::v1::SuiteMetrics* suite = evaluation->add_suites();
  suite->set_name("strong");
  suite->set_robust_accuracy(0.486);
  suite->set_worst_class_name("Shirt");
  suite->set_worst_class_robust_accuracy(0.061);
  EXPECT_THAT(RecordLines(record), ElementsAre(EndsWith("  epoch 12, final: 2000 test images: clean 83.0 %"),
                                               EndsWith("    strong: average 48.6 %, worst class Shirt 6.1 %")));
  evaluation->set_final(false);
  evaluation->set_split("validation");
  evaluation->clear_suites();
  EXPECT_THAT(RecordLines(record), ElementsAre(EndsWith("  epoch 12: 2000 validation images: clean 83.0 %")));
}

TEST(RecordLines, ShowsHowFarAnEvaluationIs) {
  ham::v1::JobRecord record;
  ham::v1::EvaluationMetrics* evaluation = record.mutable_metric()->mutable_evaluation();
  evaluation->set_rows(2000);
  evaluation->set_split("test");
  evaluation->set_clean_accuracy(0.83);
  ham::v1::SuiteMetrics* suite = evaluation->add_suites();
  suite->set_name("autoattack");
  suite->set_robust_accuracy(0.613);
  suite->set_worst_class_name("shirt");
  suite->set_worst_class_robust_accuracy(0.35);
  evaluation->mutable_progress()->set_stage("apgd-t");
  evaluation->mutable_progress()->set_rows_left(812);
  evaluation->mutable_progress()->set_ranks(1);
  evaluation->mutable_progress()->set_seconds_left(240);
  EXPECT_THAT(RecordLines(record),
              ElementsAre(EndsWith("  apgd-t  812 rows left  robust <= 61.3 %, worst class <= 35.0 % (shirt)  at most "
                                   "4m 00s left, 1 rank")));
  evaluation->clear_progress();
  EXPECT_THAT(RecordLines(record), ElementsAre(EndsWith("  2000 test images: clean 83.0 %"),
                                               EndsWith("    autoattack: average 61.3 %, worst class shirt 35.0 %")));
}

TEST(ThinnedProgress, ShowsEachStageAndEachMinute) {
  ThinnedProgress thinned;
  const auto shows = [&](const char* stage, int second) {
    ham::v1::JobRecord record;
    record.mutable_time()->set_seconds(second);
    record.mutable_metric()->mutable_evaluation()->mutable_progress()->set_stage(stage);
    return thinned.Shows(record);
  };
  EXPECT_TRUE(shows("clean", 1000));
  EXPECT_FALSE(shows("clean", 1059));
  EXPECT_TRUE(shows("clean", 1060));
  EXPECT_TRUE(shows("apgd", 1061));
  EXPECT_FALSE(shows("apgd", 1119));
  EXPECT_TRUE(shows("apgd", 1121));
  EXPECT_TRUE(thinned.Shows(ham::v1::JobRecord()));
}

TEST(RecordLines, ShowsANotice) {
  ham::v1::JobRecord record;
  record.mutable_metric()->mutable_notice()->set_message("robust overfitting: so it is");
  EXPECT_THAT(RecordLines(record), ElementsAre(EndsWith("  notice: robust overfitting: so it is")));
}

TEST(RecordLines, SaysWhyARunWasNotExact) {
  ham::v1::JobRecord record;
  ham::v1::RunSummary* summary = record.mutable_metric()->mutable_summary();
  summary->set_iterations(7);
  EXPECT_THAT(RecordLines(record), ElementsAre(EndsWith("; 7 iterations")));
  summary->add_inexact_because("it went on with 4 ranks, not 2");
  summary->add_inexact_because("another library");
  EXPECT_THAT(RecordLines(record),
              ElementsAre(EndsWith("; 7 iterations"), EndsWith("  not exact: it went on with 4 ranks, not 2"),
                          EndsWith("  not exact: another library")));
}

TEST(RecordLines, LetsNoTextSteerTheTerminal) {
  ham::v1::JobRecord record;
  record.mutable_event()->set_message("\033[2Jgone");
  EXPECT_THAT(RecordLines(record), ElementsAre(HasSubstr("?[2Jgone")));
}

TEST(RecordLines, LeavesLogTextToLogs) {
  ham::v1::JobRecord record;
  record.mutable_log()->set_text("hello\n");
  EXPECT_THAT(RecordLines(record), IsEmpty());
}

TEST(EndLine, SaysStateTimeAndReason) {
  ham::v1::Job job;
  job.set_name("projects/default/jobs/j1");
  job.set_state(ham::v1::Job::FAILED);
  job.mutable_start_time()->set_seconds(100);
  job.mutable_end_time()->set_seconds(190);
  job.set_state_message("rank 1 ended with signal 11");
  EXPECT_EQ(EndLine(job), "j1 FAILED after 1m 30s: rank 1 ended with signal 11");
}

}  // namespace
}  // namespace ham::client
