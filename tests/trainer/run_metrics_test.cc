#include "worker/trainer/run_metrics.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "worker/trainer/metric_text.h"

namespace ham::trainer {
namespace {

using nlohmann::json;

TEST(RunMetricsTest, NonFiniteNumbersAreStrings) {
  EXPECT_EQ(JsonNumber(std::nan("")), "NaN");
  EXPECT_EQ(JsonNumber(std::numeric_limits<double>::infinity()), "Infinity");
  EXPECT_EQ(JsonNumber(-std::numeric_limits<double>::infinity()), "-Infinity");
  EXPECT_EQ(JsonNumber(0.5), 0.5);
}

// data, start, attack, mining, train, all-reduce, update, evaluation.
constexpr PhaseSeconds kSeconds = {{0.5, 0.25, 1.25, 0.5, 0.75, 0.5, 0.25, 9}};

const FlopScale kScale = {{.forward = 6, .first_layer = 2}, 1000};

TEST(RunMetricsTest, UtilizationIsNanWhereThePeakIsUnknown) {
  TrainWindow window;
  window.Add({.rows = 10, .gradient_norm = 1}, false);
  window.seconds = kSeconds;
  EXPECT_EQ(TrainMetricsJson(window, {}, 0.1, 9, false, false)["model_flops_utilization"], "NaN");
}

TEST(RunMetricsTest, EachPassIsOfOnePhase) {
  const std::vector<int64_t> passes = {10, 100, 2};
  double sum = 0;
  for (const Phase phase : kPhases) sum += FlopsOf(phase, passes, kScale.model);
  EXPECT_EQ(sum, kScale.model.OfAll(passes));
  EXPECT_EQ(FlopsOf(Phase::kAttack, passes, kScale.model), 1200);
  EXPECT_EQ(FlopsOf(Phase::kMining, passes, kScale.model), 60);
  EXPECT_EQ(FlopsOf(Phase::kTrain, passes, kScale.model), 32);
}

TEST(RunMetricsTest, TrainMetricsAreOverTheWholeWindow) {
  TrainWindow window;
  StepSums sums{.loss = 6, .weight = 2, .rows = 10, .hard_rows = 2, .kept_rows = 2, .gradient_norm = 3};
  sums.counts.passes = {10, 100, 2};
  window.Add(sums, false);
  window.Add({.loss = std::nan(""),
              .weight = 4,
              .rows = 10,
              .hard_rows = 3,
              .kept_rows = 4,
              .finite = false,
              .gradient_norm = 5},
             true);
  window.seconds = kSeconds;
  const json metrics = TrainMetricsJson(window, kScale, 0.1, 99, true, false);
  EXPECT_EQ(metrics["loss"], 3);
  EXPECT_EQ(metrics["hard_share"], 0.25);
  EXPECT_EQ(metrics["kept_share"], 0.3);
  EXPECT_EQ(metrics["images_per_second"], 5);
  EXPECT_EQ(metrics["attack_seconds"], 2);
  EXPECT_EQ(metrics["train_seconds"], 1.5);
  EXPECT_EQ(metrics["phase_seconds"], (json{{"data", 0.5},
                                            {"start", 0.25},
                                            {"attack", 1.25},
                                            {"mining", 0.5},
                                            {"train", 0.75},
                                            {"all_reduce", 0.5},
                                            {"update", 0.25}}));
  EXPECT_EQ(metrics["model_flops"], 10 * 6 + 100 * 12 + 2 * 16);
  EXPECT_EQ(metrics["model_flops_utilization"], 1292.0 / (4 * 1000));
  EXPECT_EQ(metrics["iterations"], 2);
  EXPECT_EQ(metrics["skipped_iterations"], 1);
  EXPECT_EQ(metrics["total_iterations"], 99);
  EXPECT_EQ(metrics["end_of_epoch"], true);
}

TEST(RunMetricsTest, LossIsNanWhenNothingWasKept) {
  TrainWindow window;
  window.Add({.rows = 10, .gradient_norm = 1}, true);
  window.seconds = kSeconds;
  EXPECT_EQ(TrainMetricsJson(window, kScale, 0.1, 9, false, false)["loss"], "NaN");
}

const std::vector<AttackSuite> kSuites = {
    {"s", 0.1, {{AttackLoss::kCrossEntropy, 20, 0.01, 1, true}, {AttackLoss::kMargin, 40, 0.01, 2, true}}}};

TEST(RunMetricsTest, WorstClassIsTheLowestLabelOnATieAndNeverAnEmptyClass) {
  const EvaluationCounts counts{{10, 0, 10, 20}, {9, 0, 8, 16}, {{5, 0, 4, 8}}, {50, 75, 0}};
  const json metrics = EvaluationMetricsJson(counts, kSuites, {"a", "b", "c", "d"}, "test", 1.5, kScale, true);
  EXPECT_EQ(metrics["rows"], 40);
  EXPECT_EQ(metrics["clean_accuracy"], 33.0 / 40);
  EXPECT_EQ(metrics["per_class_clean_accuracy"], (json{0.9, "NaN", 0.8, 0.8}));
  const json& suite = metrics["suites"][0];
  EXPECT_EQ(suite["robust_accuracy"], 17.0 / 40);
  EXPECT_EQ(suite["worst_class"], 2);
  EXPECT_EQ(suite["worst_class_name"], "c");
  EXPECT_EQ(suite["worst_class_robust_accuracy"], 0.4);
  EXPECT_EQ(suite["budget"], "cross_entropy 20 x 0.01, margin 40 x 0.01 x 2 restarts");
  EXPECT_EQ(metrics["final"], true);
  EXPECT_EQ(metrics["model_flops"], 1200);
  EXPECT_EQ(metrics["model_flops_utilization"], 0.8);
}

TEST(RunMetricsTest, SummaryHasTheHardShareOfMinedEpochs) {
  EXPECT_EQ(RunSummaryJson({}, kScale, 7)["hard_share"], 1);
  EXPECT_EQ(RunSummaryJson({.mined_rows = 40, .hard_rows = 10}, kScale, 7)["hard_share"], 0.25);
  const json summary = RunSummaryJson({.step_seconds = 4, .model_flops = 2000}, kScale, 7);
  EXPECT_EQ(summary["model_flops"], 2000);
  EXPECT_EQ(summary["model_flops_utilization"], 0.5);
}

TEST(MetricTextTest, IsOneReadableLine) {
  TrainWindow window;
  window.Add({.rows = 10, .gradient_norm = 1}, true);
  window.seconds = kSeconds;
  EXPECT_EQ(
      MetricText({{"epoch", 1}, {"iteration", 2}, {"train", TrainMetricsJson(window, kScale, 0.1, 9, true, true)}}),
      "epoch 1  iteration 2  epoch loss NaN  hard 0.0 %  kept 0.0 %  2.5 images/s");
  const EvaluationCounts counts{{10, 10}, {9, 8}, {{5, 4}}};
  EXPECT_EQ(MetricText({{"epoch", 1},
                        {"iteration", 2},
                        {"evaluation", EvaluationMetricsJson(counts, kSuites, {"a", "b"}, "test", 1, kScale, false)}}),
            "epoch 1  iteration 2  test  20 images  clean 85.0 %  s 45.0 % (worst b 40.0 %)");
  EXPECT_EQ(MetricText({{"epoch", 1}, {"iteration", 2}, {"summary", RunSummaryJson({1, 2, 3, 4, 5, 4, 1}, kScale, 2)}}),
            "epoch 1  iteration 2  done  attack 1.0 s  train 2.0 s  evaluation 3.0 s  hard 25.0 %");
}

}  // namespace
}  // namespace ham::trainer
