#include "proto/evaluation/comparison.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/support/made_record.h"

namespace ham {
namespace {

using testing::MadeInputs;

// Whether each row is robust: '+' or '-' (wrong on the clean image). Rows of class c: those of rows[c].
EvaluationRecord RecordOf(const std::vector<std::string>& rows, char digest) {
  EvaluationRecord inputs = MadeInputs();
  inputs.model.weights_digest.assign(64, digest);
  inputs.data.row_ids.clear();
  inputs.samples = {};
  for (size_t c = 0; c < rows.size(); ++c) {
    for (const char outcome : rows[c]) {
      const auto label = static_cast<int32_t>(c);
      inputs.data.row_ids.push_back(static_cast<uint32_t>(inputs.data.row_ids.size()));
      inputs.samples.labels.push_back(label);
      inputs.samples.clean_predictions.push_back(outcome == '+' ? label : (label + 1) % 4);
      inputs.samples.broken_by.push_back(kNotBroken);
      inputs.samples.margins.push_back(outcome == '+' ? 1 : -1);
    }
  }
  inputs.samples.attack_predictions = inputs.samples.clean_predictions;
  return MakeRecord(inputs).value();
}

absl::StatusOr<RecordComparison> Compare(const EvaluationRecord& a, const EvaluationRecord& b,
                                         const ComparisonOptions& options = {}) {
  return CompareRecords({{"a.json", &a}}, {{"b.json", &b}}, options);
}

TEST(McNemarPValueTest, IsAsWorkedOutByHand) {
  EXPECT_DOUBLE_EQ(McNemarPValue(1, 8), 2 * (1 + 9) / 512.0);
  EXPECT_DOUBLE_EQ(McNemarPValue(8, 1), 2 * (1 + 9) / 512.0);
  EXPECT_DOUBLE_EQ(McNemarPValue(0, 5), 2 / 32.0);
  EXPECT_DOUBLE_EQ(McNemarPValue(3, 4), 1);
  EXPECT_EQ(McNemarPValue(4, 4), 1);
  EXPECT_EQ(McNemarPValue(0, 0), 1);
  EXPECT_DOUBLE_EQ(McNemarPValue(2, 6), 2 * (1 + 8 + 28) / 256.0);
}

// Against the normal distribution with the correction for continuity, which is close for many rows.
TEST(McNemarPValueTest, WorksForMoreRowsThanADoubleHasExponents) {
  for (const auto& [a, b] : {std::pair<int64_t, int64_t>{9900, 10100}, {50000, 50300}}) {
    const double z = (static_cast<double>(b - a) - 1) / std::sqrt(static_cast<double>(a + b));
    EXPECT_NEAR(McNemarPValue(a, b), std::erfc(z / std::sqrt(2)), 1e-4);
  }
  EXPECT_LT(McNemarPValue(0, 5000), 1e-300);
  EXPECT_GE(McNemarPValue(0, 5000), 0);
}

TEST(HolmAdjustedTest, IsAsWorkedOutByHand) {
  const std::vector<double> adjusted = HolmAdjusted({0.04, 0.01, 0.03, 0.9});
  const std::vector<double> expected = {0.09, 0.04, 0.09, 0.9};  // 2 x 0.04 is less than 3 x 0.03 before it
  ASSERT_EQ(adjusted.size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ(adjusted[i], expected[i]) << i;
  EXPECT_EQ(HolmAdjusted({0.6, 0.7}), (std::vector<double>{1, 1}));
  EXPECT_TRUE(HolmAdjusted({}).empty());
}

TEST(CompareRecordsTest, AreThoseOfAHandMadePair) {
  const EvaluationRecord a = RecordOf({"++++++++", "+++-------", "-+"}, '1');
  const EvaluationRecord b = RecordOf({"+++++++-", "--+++++++-", "+-"}, '2');
  const absl::StatusOr<RecordComparison> compared = Compare(a, b, {.validation_class = "bee"});
  ASSERT_TRUE(compared.ok()) << compared.status();
  EXPECT_EQ(compared->robust_difference.value, 3.0 / 20);
  EXPECT_EQ(compared->clean_difference.value, 3.0 / 20);
  EXPECT_DOUBLE_EQ(compared->worst_class_difference.value, 0.5 - 0.3);
  ASSERT_EQ(compared->classes.size(), 4u);
  EXPECT_EQ(compared->classes[0].name, "ant");
  EXPECT_EQ(compared->classes[0].rows, 8);
  EXPECT_EQ(compared->classes[0].robust_difference.value, -1.0 / 8);
  EXPECT_EQ(compared->classes[0].only_a, 1);
  EXPECT_EQ(compared->classes[0].only_b, 0);
  EXPECT_EQ(compared->classes[0].p_value, 1);
  EXPECT_EQ(compared->classes[1].robust_difference.value, 4.0 / 10);
  EXPECT_EQ(compared->classes[1].only_a, 2);
  EXPECT_EQ(compared->classes[1].only_b, 6);
  EXPECT_DOUBLE_EQ(compared->classes[1].p_value, 74.0 / 256);
  EXPECT_DOUBLE_EQ(compared->classes[1].adjusted_p_value, 3 * 74.0 / 256) << "of three classes with rows";
  EXPECT_EQ(compared->classes[2].robust_difference.value, 0);
  EXPECT_EQ(compared->classes[3].rows, 0);
  EXPECT_TRUE(std::isnan(compared->classes[3].p_value));
  EXPECT_TRUE(std::isnan(compared->classes[3].adjusted_p_value));
  EXPECT_TRUE(std::isnan(compared->classes[3].robust_difference.low));
  EXPECT_EQ(compared->validation_class, 1);
  EXPECT_DOUBLE_EQ(compared->rho, 0.2 / 0.3 + 3.0 / 12);
}

TEST(CompareRecordsTest, CleanAndRobustAreApart) {
  EvaluationRecord inputs = MadeInputs();
  inputs.model.weights_digest.assign(64, '2');
  inputs.samples.broken_by[2] = kNotBroken;
  inputs.samples.attack_predictions[2] = 0;
  inputs.samples.margins[2] = 1;
  const absl::StatusOr<RecordComparison> compared = Compare(testing::MadeRecord(), *MakeRecord(inputs));
  ASSERT_TRUE(compared.ok()) << compared.status();
  EXPECT_EQ(compared->clean_difference.value, 0);
  EXPECT_EQ(compared->clean_difference.high, 0);
  EXPECT_EQ(compared->robust_difference.value, 0.1);
  EXPECT_EQ(compared->classes[0].only_b, 1);
}

// All resamples of two classes of three pairs each, with their probabilities, against the bootstrap.
TEST(CompareRecordsTest, IntervalsAreThoseOfAllResamplesOfPairs) {
  const std::vector<std::string> in_a = {"+-+", "--+"}, in_b = {"-++", "+++"};
  std::map<double, double> average, worst;
  const auto robust = [](char outcome) { return outcome == '+'; };
  for (int draw = 0; draw < 27 * 27; ++draw) {
    int a[2] = {}, b[2] = {};
    for (int c = 0, rest = draw; c < 2; ++c) {
      for (int i = 0; i < 3; ++i, rest /= 3) {
        a[c] += robust(in_a[c][rest % 3]);
        b[c] += robust(in_b[c][rest % 3]);
      }
    }
    average[(b[0] + b[1] - a[0] - a[1]) / 6.0] += 1.0 / (27 * 27);
    worst[std::min(b[0], b[1]) / 3.0 - std::min(a[0], a[1]) / 3.0] += 1.0 / (27 * 27);
  }
  const auto quantile = [](const std::map<double, double>& distribution, double share) {
    double sum = 0;
    for (const auto& [value, probability] : distribution) {
      sum += probability;
      EXPECT_GT(std::abs(sum - share), 0.004) << "chance could decide otherwise";
      if (sum > share) return value;
    }
    return std::nan("");
  };
  const EvaluationRecord first = RecordOf(in_a, '1'), second = RecordOf(in_b, '2');
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const RecordComparison compared =
        *Compare(first, second, {.validation_class = "", .resamples = 10000, .seed = seed});
    EXPECT_DOUBLE_EQ(compared.robust_difference.low, quantile(average, 0.025));
    EXPECT_DOUBLE_EQ(compared.robust_difference.high, quantile(average, 0.975));
    EXPECT_DOUBLE_EQ(compared.worst_class_difference.low, quantile(worst, 0.025));
    EXPECT_DOUBLE_EQ(compared.worst_class_difference.high, quantile(worst, 0.975));
  }
}

// Both models fail on the same images: kept together, pairs leave no doubt that there is no difference.
TEST(CompareRecordsTest, PairsAreKeptTogether) {
  const std::vector<std::string> rows = {std::string(50, '+') + std::string(50, '-')};
  const RecordComparison compared = *Compare(RecordOf(rows, '1'), RecordOf(rows, '2'));
  for (const Estimate& difference : {compared.robust_difference, compared.worst_class_difference}) {
    EXPECT_EQ(difference.low, 0);
    EXPECT_EQ(difference.high, 0);
  }
}

TEST(CompareRecordsTest, TheOtherWayRoundIsTheNegative) {
  const EvaluationRecord a = RecordOf({"++-+-+++-+", "+--+--+-++", "---+--+--+"}, '1');
  const EvaluationRecord b = RecordOf({"+++---++++", "--++-+-+++", "+--++-++--"}, '2');
  const RecordComparison ab = *Compare(a, b), ba = *Compare(b, a);
  EXPECT_EQ(ab.robust_difference.value, -ba.robust_difference.value);
  EXPECT_EQ(ab.worst_class_difference.value, -ba.worst_class_difference.value);
  for (size_t c = 0; c < 3; ++c) {
    EXPECT_EQ(ab.classes[c].only_a, ba.classes[c].only_b);
    EXPECT_EQ(ab.classes[c].p_value, ba.classes[c].p_value);
  }
}

TEST(CompareRecordsTest, TheSpreadIsOverRecordsAlone) {
  const EvaluationRecord a = RecordOf({"++++", "+---"}, '1');   // 5/8, worst 1/4
  const EvaluationRecord a2 = RecordOf({"++++", "+++-"}, '2');  // 7/8, worst 3/4
  const EvaluationRecord b = RecordOf({"++--", "++--"}, '3');
  const absl::StatusOr<RecordComparison> compared = CompareRecords({{"a", &a}, {"a2", &a2}}, {{"b", &b}});
  ASSERT_TRUE(compared.ok()) << compared.status();
  EXPECT_EQ(compared->a.records, 2);
  EXPECT_EQ(compared->a.robust_accuracy.mean, 0.75);
  EXPECT_DOUBLE_EQ(compared->a.robust_accuracy.standard_deviation, std::sqrt(2) / 8);
  EXPECT_EQ(compared->a.worst_class_robust_accuracy.mean, 0.5);
  EXPECT_DOUBLE_EQ(compared->a.worst_class_robust_accuracy.standard_deviation, std::sqrt(2) / 4);
  EXPECT_EQ(compared->a.clean_accuracy.mean, 0.75);
  EXPECT_EQ(compared->b.records, 1);
  EXPECT_EQ(compared->b.robust_accuracy.mean, 0.5);
  EXPECT_TRUE(std::isnan(compared->b.robust_accuracy.standard_deviation));
  EXPECT_EQ(compared->robust_difference.value, -1.0 / 8) << "of the first of each side";
}

struct Difference {
  const char* name;
  void (*make)(EvaluationRecord*);
  const char* says;
};

void PrintTo(const Difference& difference, std::ostream* out) { *out << difference.name; }

class NotComparable : public ::testing::TestWithParam<Difference> {};

INSTANTIATE_TEST_SUITE_P(
    Differences, NotComparable,
    ::testing::Values(
        Difference{"Name", [](EvaluationRecord* r) { r->data.name = "other"; }, "data.name (toy and other)"},
        Difference{"Split", [](EvaluationRecord* r) { r->data.split = "train"; }, "data.split (test and train)"},
        Difference{"Digest", [](EvaluationRecord* r) { r->data.digest[0] = 'c'; }, "data.digest (bbbb"},
        Difference{"Size", [](EvaluationRecord* r) { r->data.image_size = 160; }, "data.image_size (32 and 160)"},
        Difference{"Rows", [](EvaluationRecord* r) { r->data.row_ids[9] = 99; },
                   "data.rows (10 from 7 to 16 and 10 from 7 to 99)"},
        Difference{"Norm", [](EvaluationRecord* r) { r->threat.norm = "l2"; }, "threat.norm (linf and l2)"},
        Difference{"Epsilon", [](EvaluationRecord* r) { r->threat.epsilon = 0.5; },
                   "threat.epsilon (0.03137254901960784 and 0.5)"},
        Difference{"Steps", [](EvaluationRecord* r) { r->attacks[0].steps = 10; },
                   "attacks (pgd cross_entropy, 20 x 0.0078431372549"},
        Difference{"Restarts", [](EvaluationRecord* r) { r->attacks[1].restarts = 2; }, "attacks"},
        Difference{"StepSize", [](EvaluationRecord* r) { r->attacks[0].step_size = 0.5; }, "attacks"},
        Difference{"Loss", [](EvaluationRecord* r) { r->attacks[0].loss = "dlr"; }, "attacks"},
        Difference{"Start", [](EvaluationRecord* r) { r->attacks[0].random_start = false; }, "attacks"},
        Difference{"Judged", [](EvaluationRecord* r) { r->attacks[0].judged_at = "any"; }, "attacks"},
        Difference{"Targets", [](EvaluationRecord* r) { r->attacks[1].targets = 2; }, "attacks"},
        Difference{"Attack", [](EvaluationRecord* r) { r->attacks[1].name = "fab-t"; }, "attacks"},
        Difference{"ClassNames", [](EvaluationRecord* r) { r->data.class_names[0] = "asp"; },
                   "have one data.digest, but other labels"},
        Difference{"Labels", [](EvaluationRecord* r) { r->samples.labels[9] = 1; },
                   "have one data.digest, but other labels"}),
    [](const ::testing::TestParamInfo<Difference>& tested) { return tested.param.name; });

TEST_P(NotComparable, AreNamed) {
  const EvaluationRecord a = testing::MadeRecord();
  EvaluationRecord inputs = MadeInputs();
  inputs.model.weights_digest.assign(64, '2');
  GetParam().make(&inputs);
  const absl::StatusOr<EvaluationRecord> b = MakeRecord(inputs);
  ASSERT_TRUE(b.ok()) << b.status();
  for (const absl::Status& status :
       {Compare(a, *b).status(), CompareRecords({{"a.json", &a}, {"b.json", &*b}}, {{"a.json", &a}}).status()}) {
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_NE(status.message().find("a.json and b.json "), std::string::npos) << status;
    EXPECT_NE(status.message().find(GetParam().says), std::string::npos) << status;
  }
}

TEST(CompareRecordsTest, WhatAnAttackTookMayDiffer) {
  EvaluationRecord inputs = MadeInputs();
  inputs.model.weights_digest.assign(64, '2');
  inputs.attacks[0].seconds = 99;
  inputs.attacks[0].forward_passes = 1;
  inputs.seed = 1;
  inputs.precision = "bf16";
  inputs.device = "another";
  EXPECT_TRUE(Compare(testing::MadeRecord(), *MakeRecord(inputs)).ok());
}

TEST(CompareRecordsTest, RefusesOneModelTwiceOnASideAndUnknownClasses) {
  const EvaluationRecord a = testing::MadeRecord();
  const absl::Status twice = CompareRecords({{"a", &a}}, {{"b", &a}, {"c", &a}}).status();
  EXPECT_NE(twice.message().find("b and c are of one model"), std::string::npos) << twice;
  const absl::Status unknown = Compare(a, a, {.validation_class = "cow"}).status();
  EXPECT_NE(unknown.message().find("\"cow\" is no class of a.json"), std::string::npos) << unknown;
  EXPECT_TRUE(absl::IsInvalidArgument(unknown));
}

}  // namespace
}  // namespace ham
