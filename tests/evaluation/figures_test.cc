#include "proto/evaluation/figures.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "proto/evaluation/intervals.h"
#include "tests/support/made_record.h"
#include "tests/support/seed.h"

namespace ham {
namespace {

constexpr FigureOptions kOptions;

// Rows of class c: robust[c] robust ones, the others wrong on the clean image, as class 0 or 1.
EvaluationOutcomes OutcomesOf(const std::vector<int>& rows, const std::vector<int>& robust) {
  EvaluationOutcomes out;
  for (int c = 0; c < static_cast<int>(rows.size()); ++c) {
    for (int i = 0; i < rows[c]; ++i) {
      const bool right = i < robust[c];
      out.labels.push_back(c);
      out.clean_predictions.push_back(right ? c : c == 0);
      out.broken_by.push_back(kNotBroken);
      out.margins.push_back(right ? 1 : -1);
    }
  }
  out.attack_predictions = out.clean_predictions;
  return out;
}

TEST(ComputeFiguresTest, AreThoseOfAHandMadeEvaluation) {
  const EvaluationFigures figures = ComputeFigures(testing::MadeOutcomes(), 4, 2, kOptions);
  EXPECT_EQ(figures.clean_accuracy.value, 0.8);
  EXPECT_EQ(figures.clean_accuracy.low, WilsonInterval(8, 10).low);
  EXPECT_EQ(figures.clean_accuracy.high, WilsonInterval(8, 10).high);
  EXPECT_EQ(figures.robust_accuracy.value, 0.5);
  EXPECT_EQ(figures.robust_accuracy.low, WilsonInterval(5, 10).low);
  EXPECT_EQ(figures.boundary_error.value, 0.3);
  EXPECT_EQ(figures.boundary_error.high, WilsonInterval(3, 10).high);
  ASSERT_EQ(figures.classes.size(), 4u);
  EXPECT_EQ(figures.classes[0].rows, 4);
  EXPECT_EQ(figures.classes[0].clean_accuracy.value, 0.75);
  EXPECT_EQ(figures.classes[0].robust_accuracy.value, 0.5);
  EXPECT_EQ(figures.classes[0].boundary_error.value, 0.25);
  EXPECT_EQ(figures.classes[1].robust_accuracy.value, 2.0 / 3);
  EXPECT_EQ(figures.classes[1].robust_accuracy.low, WilsonInterval(2, 3).low);
  EXPECT_EQ(figures.classes[2].robust_accuracy.value, 1.0 / 3);
  EXPECT_EQ(figures.classes[3].rows, 0);
  EXPECT_TRUE(std::isnan(figures.classes[3].robust_accuracy.value));
  EXPECT_TRUE(std::isnan(figures.classes[3].boundary_error.low));
  EXPECT_EQ(figures.worst_class, 2);
  EXPECT_EQ(figures.worst_class_robust_accuracy.value, 1.0 / 3);
  EXPECT_DOUBLE_EQ(figures.worst_k_robust_accuracy.value, 5.0 / 12);
  EXPECT_EQ(figures.worst_30_percent_robust_accuracy.value, 1.0 / 3);
  EXPECT_DOUBLE_EQ(figures.best_worst_gap.value, 1.0 / 3);
  EXPECT_DOUBLE_EQ(figures.standard_deviation.value, std::sqrt(1.0 / 54));
  EXPECT_DOUBLE_EQ(figures.normalized_standard_deviation.value, 2 * std::sqrt(1.0 / 54));
  EXPECT_EQ(figures.confusion, (std::vector<int32_t>{2, 2, 0, 0, 0, 2, 0, 1, 2, 0, 1, 0, 0, 0, 0, 0}));
  ASSERT_EQ(figures.attacks.size(), 2u);
  EXPECT_EQ(figures.attacks[0].robust_accuracy, 0.6);
  EXPECT_EQ(figures.attacks[0].lowered_by, 0.2);
  EXPECT_EQ(figures.attacks[0].worst_class_robust_accuracy, 1.0 / 3);
  EXPECT_EQ(figures.attacks[0].broken_by_class, (std::vector<int32_t>{1, 0, 1, 0}));
  EXPECT_EQ(figures.attacks[1].robust_accuracy, 0.5);
  EXPECT_EQ(figures.attacks[1].lowered_by, 0.1);
  EXPECT_EQ(figures.attacks[1].broken_by_class, (std::vector<int32_t>{0, 1, 0, 0}));
}

TEST(ComputeFiguresTest, WorstClassIsTheLowestLabelOnATie) {
  EXPECT_EQ(ComputeFigures(OutcomesOf({4, 2, 4}, {3, 1, 2}), 3, 1, kOptions).worst_class, 1);
}

TEST(ComputeFiguresTest, CountsClassesWithRowsOnly) {
  std::vector<int> rows(12, 2), robust(12, 2);
  rows[3] = robust[3] = 0;  // 11 left: ceil(3.3) = 4 of them
  robust[5] = robust[6] = robust[7] = 1;
  robust[11] = 0;
  const EvaluationFigures figures = ComputeFigures(OutcomesOf(rows, robust), 12, 1, {.worst_k = 20, .resamples = 100});
  EXPECT_DOUBLE_EQ(figures.worst_30_percent_robust_accuracy.value, 1.5 / 4);
  EXPECT_DOUBLE_EQ(figures.worst_k_robust_accuracy.value, 8.5 / 11) << "there are not 20: all of them";
  EXPECT_EQ(figures.worst_class, 11);
  EXPECT_EQ(figures.best_worst_gap.value, 1);
}

TEST(ComputeFiguresTest, ThirtyPercentOfTenClassesAreThree) {
  const std::vector<int> rows(10, 10), robust = {9, 1, 9, 2, 9, 9, 6, 9, 9, 9};
  EXPECT_DOUBLE_EQ(ComputeFigures(OutcomesOf(rows, robust), 10, 1, kOptions).worst_30_percent_robust_accuracy.value,
                   0.3);
}

TEST(ComputeFiguresTest, NothingRobustHasNoNormalizedDeviation) {
  const EvaluationFigures figures = ComputeFigures(OutcomesOf({3, 3}, {0, 0}), 2, 1, kOptions);
  EXPECT_TRUE(std::isnan(figures.normalized_standard_deviation.value));
  EXPECT_TRUE(std::isnan(figures.normalized_standard_deviation.low));
  EXPECT_EQ(figures.standard_deviation.value, 0);
  EXPECT_EQ(figures.worst_class, 0);
}

// All resamples of two classes of three rows, each with its probability, against the bootstrap.
TEST(ComputeFiguresTest, BootstrapIntervalsAreThoseOfAllResamples) {
  constexpr int kRows = 3;
  const std::vector<int> robust = {1, 2};
  std::map<double, double> worst, gap, deviation;  // value to probability
  const double ways[] = {1, 3, 3, 1};
  for (int a = 0; a <= kRows; ++a) {
    for (int b = 0; b <= kRows; ++b) {
      const auto probability = [&](int k, int of) {
        return ways[k] * std::pow(of, k) * std::pow(kRows - of, kRows - k) / 27;
      };
      const double p = probability(a, robust[0]) * probability(b, robust[1]);
      worst[std::min(a, b) / 3.0] += p;
      gap[std::abs(a - b) / 3.0] += p;
      deviation[std::abs(a - b) / 6.0] += p;
    }
  }
  const auto quantile = [](const std::map<double, double>& distribution, double share) {
    double sum = 0;
    for (const auto& [value, probability] : distribution) {
      sum += probability;
      // A case that chance could decide otherwise would prove nothing.
      EXPECT_GT(std::abs(sum - share), 0.004);
      if (sum > share) return value;
    }
    return std::nan("");
  };
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const FigureOptions options{.worst_k = 2, .resamples = 10000, .seed = seed};
    const EvaluationFigures figures = ComputeFigures(OutcomesOf({kRows, kRows}, robust), 2, 1, options);
    EXPECT_EQ(figures.worst_class_robust_accuracy.low, quantile(worst, 0.025));
    EXPECT_EQ(figures.worst_class_robust_accuracy.high, quantile(worst, 0.975));
    EXPECT_DOUBLE_EQ(figures.best_worst_gap.low, quantile(gap, 0.025));
    EXPECT_DOUBLE_EQ(figures.best_worst_gap.high, quantile(gap, 0.975));
    EXPECT_DOUBLE_EQ(figures.standard_deviation.high, quantile(deviation, 0.975));
  }
}

// Ten times as many rows with the same shares: intervals shrink by about the square root of ten.
TEST(ComputeFiguresTest, IntervalsShrinkWithMoreRows) {
  const auto width = [](const Estimate& estimate) { return estimate.high - estimate.low; };
  const EvaluationFigures few = ComputeFigures(OutcomesOf({100, 100, 100}, {30, 50, 70}), 3, 1, kOptions);
  const EvaluationFigures many = ComputeFigures(OutcomesOf({1000, 1000, 1000}, {300, 500, 700}), 3, 1, kOptions);
  for (const auto field : {&EvaluationFigures::worst_class_robust_accuracy, &EvaluationFigures::worst_k_robust_accuracy,
                           &EvaluationFigures::worst_30_percent_robust_accuracy, &EvaluationFigures::best_worst_gap,
                           &EvaluationFigures::standard_deviation, &EvaluationFigures::normalized_standard_deviation}) {
    EXPECT_NEAR(width(few.*field) / width(many.*field), std::sqrt(10), 0.5);
    EXPECT_LT((many.*field).low, (many.*field).value);
    EXPECT_LT((many.*field).value, (many.*field).high);
  }
}

TEST(ComputeFiguresTest, TheOrderOfRowsAndTheNamesOfClassesChangeNothing) {
  std::mt19937_64 random(testing::TestSeed());
  const EvaluationOutcomes outcomes = OutcomesOf({40, 30, 20, 10}, {31, 7, 13, 5});
  const EvaluationFigures figures = ComputeFigures(outcomes, 4, 1, kOptions);
  std::vector<size_t> order(outcomes.rows());
  std::iota(order.begin(), order.end(), size_t{0});
  std::shuffle(order.begin(), order.end(), random);
  const std::vector<int32_t> names = {2, 3, 0, 1};
  EvaluationOutcomes shuffled, renamed = outcomes;
  for (size_t i = 0; i < order.size(); ++i) {
    shuffled.labels.push_back(outcomes.labels[order[i]]);
    shuffled.clean_predictions.push_back(outcomes.clean_predictions[order[i]]);
    shuffled.broken_by.push_back(kNotBroken);
    shuffled.attack_predictions.push_back(outcomes.attack_predictions[order[i]]);
    for (auto* field : {&renamed.labels, &renamed.clean_predictions, &renamed.attack_predictions}) {
      (*field)[i] = names[static_cast<size_t>((*field)[i])];
    }
  }
  const EvaluationFigures again = ComputeFigures(shuffled, 4, 1, kOptions);
  EXPECT_EQ(again.confusion, figures.confusion);
  EXPECT_EQ(again.normalized_standard_deviation.value, figures.normalized_standard_deviation.value);
  EXPECT_EQ(again.normalized_standard_deviation.low, figures.normalized_standard_deviation.low);
  const EvaluationFigures other = ComputeFigures(renamed, 4, 1, kOptions);
  EXPECT_EQ(other.worst_class, names[static_cast<size_t>(figures.worst_class)]);
  EXPECT_EQ(other.normalized_standard_deviation.value, figures.normalized_standard_deviation.value);
  EXPECT_EQ(other.worst_k_robust_accuracy.value, figures.worst_k_robust_accuracy.value);
}

TEST(ComputeFiguresTest, TakesWellUnderASecondForALargeTestSet) {
  const EvaluationOutcomes outcomes = OutcomesOf(std::vector<int>(100, 100), std::vector<int>(100, 40));
  const auto start = std::chrono::steady_clock::now();
  ComputeFigures(outcomes, 100, 4, kOptions);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("10,000 rows, 100 classes, 2,000 resamples: %.3f s\n", seconds.count());
  EXPECT_LT(seconds.count(), 5) << "even under a sanitizer on a busy machine";
}

TEST(RhoTest, IsAsInThePaper) {
  EvaluationFigures base, figures;
  base.worst_class_robust_accuracy.value = 0.2;
  base.robust_accuracy.value = 0.5;
  figures.worst_class_robust_accuracy.value = 0.3;
  figures.robust_accuracy.value = 0.45;
  EXPECT_DOUBLE_EQ(Rho(figures, base), 0.5 - 0.1);
  EXPECT_EQ(Rho(base, base), 0);
}

struct WrongOutcome {
  const char* name;
  void (*make)(EvaluationOutcomes*);
  const char* says;
};

class WrongOutcomes : public ::testing::TestWithParam<WrongOutcome> {};

INSTANTIATE_TEST_SUITE_P(
    Changes, WrongOutcomes,
    ::testing::Values(
        WrongOutcome{"NoRows", [](EvaluationOutcomes* o) { *o = {}; }, "there is no row"},
        WrongOutcome{"OneTooFew", [](EvaluationOutcomes* o) { o->margins.pop_back(); }, "10 labels, but 9"},
        WrongOutcome{"LabelTooHigh", [](EvaluationOutcomes* o) { o->labels[0] = 4; }, "row 0 has class 4"},
        WrongOutcome{"LabelBelow0", [](EvaluationOutcomes* o) { o->labels[0] = -1; }, "row 0 has class -1"},
        WrongOutcome{"PredictionTooHigh", [](EvaluationOutcomes* o) { o->clean_predictions[3] = 9; },
                     "row 3 has class 9"},
        WrongOutcome{"ClassUnderAttackTooHigh", [](EvaluationOutcomes* o) { o->attack_predictions[2] = 9; },
                     "row 2 has class 9"},
        WrongOutcome{"NoSuchAttack", [](EvaluationOutcomes* o) { o->broken_by[2] = 2; }, "attack 2 of 2"},
        WrongOutcome{"NegativeAttack", [](EvaluationOutcomes* o) { o->broken_by[2] = -2; }, "attack -2"},
        WrongOutcome{"ChangedThoughUnbroken", [](EvaluationOutcomes* o) { o->attack_predictions[0] = 1; },
                     "row 0 is broken by no attack, but"},
        WrongOutcome{"BrokenThoughWrongBefore", [](EvaluationOutcomes* o) { o->broken_by[3] = 0; },
                     "row 3 is broken by an attack, but was wrong"},
        WrongOutcome{"BrokenIntoItsLabel", [](EvaluationOutcomes* o) { o->attack_predictions[2] = 0; },
                     "its class there is the label"},
        WrongOutcome{"RobustWithMarginBelow0", [](EvaluationOutcomes* o) { o->margins[0] = -0.5f; },
                     "row 0 is robust, but has a margin of -0.5"},
        WrongOutcome{"BrokenWithMarginAbove0", [](EvaluationOutcomes* o) { o->margins[2] = 0.5f; },
                     "row 2 is not robust, but has a margin of 0.5"}),
    [](const ::testing::TestParamInfo<WrongOutcome>& tested) { return tested.param.name; });

TEST_P(WrongOutcomes, AreNamed) {
  EvaluationOutcomes outcomes = testing::MadeOutcomes();
  ASSERT_TRUE(CheckOutcomes(outcomes, 4, 2).ok());
  GetParam().make(&outcomes);
  const absl::Status status = CheckOutcomes(outcomes, 4, 2);
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_NE(status.message().find(GetParam().says), std::string::npos) << status;
}

TEST(CheckOutcomesTest, AMarginMayBeUnknown) {
  EvaluationOutcomes outcomes = testing::MadeOutcomes();
  outcomes.margins[0] = outcomes.margins[2] = std::nanf("");
  EXPECT_TRUE(CheckOutcomes(outcomes, 4, 2).ok());
}

}  // namespace
}  // namespace ham
