#include "worker/trainer/bench_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ham::trainer {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

BenchReport Report() {
  BenchReport report{.model = "toy",
                     .precision = "fp32",
                     .epoch = 2,
                     .world_size = 2,
                     .threads = 1,
                     .scale = {{.forward = 1'000'000'000, .first_layer = 0}, 1e11},
                     .seconds = 4};
  StepSums sums{.loss = 1, .weight = 2, .rows = 100, .hard_rows = 25, .kept_rows = 25};
  sums.counts.passes = {50, 75, 10};
  report.window.Add(sums, false);
  report.window.seconds = {{0.5, 0.25, 2, 0.25, 0.5, 0.25, 0.25, 0}};
  return report;
}

TEST(BenchReportTest, JsonHasEachPhaseWithItsShares) {
  const json out = BenchJson(Report());
  EXPECT_EQ(out["images_per_second"], 25);
  EXPECT_EQ(out["hard_share"], 0.25);
  EXPECT_EQ(
      out["phases"]["attack"],
      (json{{"seconds", 2.0}, {"share", 0.5}, {"flops", 150e9}, {"flops_per_second", 75e9}, {"share_of_peak", 0.75}}));
  EXPECT_EQ(out["phases"]["mining"]["flops"], 50e9);
  EXPECT_EQ(out["phases"]["train"]["flops_per_second"], 60e9);
  EXPECT_EQ(out["phases"]["all_reduce"]["flops"], 0);
  EXPECT_EQ(out["model_flops"], 230e9);
  EXPECT_EQ(out["model_flops_utilization"], 230.0 / 4 / 100);
  double seconds = 0, share = 0;
  for (const auto& [name, phase] : out["phases"].items()) {
    seconds += phase["seconds"].get<double>();
    share += phase["share"].get<double>();
  }
  EXPECT_EQ(out["phases"].size(), 7);
  EXPECT_EQ(seconds, 4);
  EXPECT_EQ(share, 1);
  EXPECT_FALSE(out.contains("evaluation"));
}

TEST(BenchReportTest, AnEvaluationIsBesideTheSteps) {
  BenchReport report = Report();
  report.window.seconds[Phase::kEvaluation] = 0.5;
  report.evaluation_rows = 16;
  report.evaluation_flops = 25e9;
  const json out = BenchJson(report);
  EXPECT_EQ(
      out["evaluation"],
      (json{{"rows", 16}, {"seconds", 0.5}, {"flops", 25e9}, {"flops_per_second", 50e9}, {"share_of_peak", 0.5}}));
  EXPECT_EQ(out["model_flops"], 230e9);
  EXPECT_THAT(BenchTable(report), HasSubstr("evaluation: 16 images, 32.0 images/s"));
}

TEST(BenchReportTest, TheTableCountsInTheUnitOfTheDevice) {
  BenchReport report = Report();
  EXPECT_EQ(BenchTable(report),
            "toy, fp32, epoch 2, 2 x 1 threads; matrix products reach 100 GFLOP/s\n"
            "PHASE        SECONDS    SHARE       GFLOP    GFLOP/s   OF PEAK\n"
            "data           0.500   12.5 %           -          -         -\n"
            "start          0.250    6.2 %           -          -         -\n"
            "attack         2.000   50.0 %         150         75    75.0 %\n"
            "mining         0.250    6.2 %          50        200   200.0 %\n"
            "train          0.500   12.5 %          30         60    60.0 %\n"
            "all_reduce     0.250    6.2 %           -          -         -\n"
            "update         0.250    6.2 %           -          -         -\n"
            "total          4.000  100.0 %         230       57.5    57.5 %\n"
            "25.0 images/s, 1 iterations, hard 25.0 %, model FLOPs utilisation 57.5 %\n");
  report.scale.peak_per_second = 5e14;
  EXPECT_THAT(BenchTable(report), HasSubstr("reach 500 TFLOP/s"));
  EXPECT_THAT(BenchTable(report), HasSubstr("        0.15      0.075     0.0 %"));
}

TEST(BenchReportTest, WithoutAPeakThereIsNoShareOfIt) {
  BenchReport report = Report();
  report.scale.peak_per_second = FlopScale{}.peak_per_second;
  EXPECT_EQ(BenchJson(report)["model_flops_utilization"], "NaN");
  EXPECT_EQ(BenchJson(report)["matmul_peak_flops_per_second"], "NaN");
  EXPECT_EQ(BenchJson(report)["phases"]["attack"]["flops_per_second"], 75e9);
}

}  // namespace
}  // namespace ham::trainer
