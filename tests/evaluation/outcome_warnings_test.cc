#include "proto/evaluation/outcome_warnings.h"

#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace ham {
namespace {

RecordedAttack Attack(const std::string& name, const std::string& loss = "", int32_t targets = 0) {
  RecordedAttack out;
  out.name = name;
  out.loss = loss;
  out.targets = targets;
  return out;
}

// `per_class` rows of each of ten classes, all right and robust.
EvaluationRecord Record(const std::vector<RecordedAttack>& attacks, int per_class) {
  EvaluationRecord record;
  record.attacks = attacks;
  for (int c = 0; c < 10; ++c) {
    record.data.class_names.push_back(std::to_string(c));
    for (int i = 0; i < per_class; ++i) record.samples.labels.push_back(c);
  }
  record.samples.clean_predictions = record.samples.labels;
  record.samples.attack_predictions = record.samples.labels;
  record.samples.broken_by.assign(record.samples.rows(), kNotBroken);
  record.samples.margins.assign(record.samples.rows(), 1);
  return record;
}

// The first `count` standing rows of the class fall to attack `a`.
void Break(int32_t a, int32_t label, int count, EvaluationRecord* record) {
  for (size_t i = 0; i < record->samples.rows() && count > 0; ++i) {
    if (record->samples.labels[i] != label || record->samples.broken_by[i] != kNotBroken) continue;
    record->samples.broken_by[i] = a;
    --count;
  }
  ASSERT_EQ(count, 0);
}

std::vector<WarningType> Types(const EvaluationRecord& record) {
  std::vector<WarningType> out;
  for (const EvaluationWarning& warning : OutcomeWarnings(record)) out.push_back(warning.type);
  return out;
}

using Warned = std::vector<WarningType>;

TEST(OutcomeWarningsTest, SquareMayBreakTwoOfAThousand) {
  EvaluationRecord record = Record({Attack("apgd", "cross_entropy"), Attack("square")}, 100);
  Break(0, 1, 90, &record);
  Break(1, 3, 2, &record);
  EXPECT_EQ(Types(record), Warned{});
  Break(1, 4, 1, &record);
  ASSERT_EQ(Types(record), Warned{WarningType::kBlackBoxStronger});
  EXPECT_EQ(OutcomeWarnings(record)[0].message,
            "square, which sees no gradient, broke 3 of 1000 rows (0.3 points) that the attacks before it had left; up "
            "to 0.2 points are usual");
}

TEST(OutcomeWarningsTest, SquareAloneMayBreakAll) {
  EvaluationRecord record = Record({Attack("square"), Attack("square"), Attack("fab-t", "", 9)}, 100);
  Break(0, 1, 50, &record);
  Break(1, 2, 50, &record);
  Break(2, 3, 50, &record);
  EXPECT_EQ(Types(record), Warned{});
}

TEST(OutcomeWarningsTest, TargetsMayLowerTheMeanByFourPointsBehindCrossEntropy) {
  for (const char* pgd : {"pgd", "apgd"}) {
    EvaluationRecord record = Record({Attack(pgd, "cross_entropy"), Attack("apgd-t", "", 9)}, 100);
    for (int c = 0; c < 10; ++c) Break(1, c, 4, &record);
    EXPECT_EQ(Types(record), Warned{});
    Break(1, 0, 1, &record);
    ASSERT_EQ(Types(record), Warned{WarningType::kWeakPgd});
    EXPECT_EQ(OutcomeWarnings(record)[0].message,
              "apgd-t lowered robust accuracy by 4.1 points behind cross entropy (41 of 1000 rows), and that of the "
              "worst class by 5.0 points; up to 4 and 8 are usual");
    record.attacks[0].loss = "dlr";
    EXPECT_EQ(Types(record), Warned{});
    std::swap(record.attacks[0], record.attacks[1]);
    EXPECT_EQ(Types(record), Warned{});
  }
}

TEST(OutcomeWarningsTest, TargetsMayLowerTheWorstClassByEightPoints) {
  EvaluationRecord record = Record({Attack("pgd", "cross_entropy"), Attack("apgd-t", "", 9)}, 100);
  Break(0, 7, 42, &record);
  Break(1, 7, 8, &record);
  EXPECT_EQ(Types(record), Warned{});
  Break(1, 7, 1, &record);
  EXPECT_EQ(Types(record), Warned{WarningType::kWeakPgd});
  // Not if the class was far from the worst.
  EvaluationRecord other = Record({Attack("pgd", "cross_entropy"), Attack("apgd-t", "", 9)}, 100);
  Break(0, 7, 42, &other);
  Break(1, 2, 20, &other);
  EXPECT_EQ(Types(other), Warned{});
}

TEST(OutcomeWarningsTest, ASmallClassSaysNothing) {
  for (const int per_class : {24, 25}) {
    EvaluationRecord record = Record({Attack("pgd", "cross_entropy"), Attack("apgd-t", "", 9)}, per_class);
    Break(1, 7, 3, &record);
    EXPECT_EQ(Types(record), per_class == 24 ? Warned{} : Warned{WarningType::kWeakPgd});
  }
}

TEST(OutcomeWarningsTest, FewerTargetsAreNamedOnce) {
  const EvaluationRecord record =
      Record({Attack("apgd", "dlr"), Attack("apgd-t", "", 9), Attack("fab-t", "", 8), Attack("apgd-t", "", 1)}, 1);
  ASSERT_EQ(Types(record), Warned{WarningType::kFewerTargets});
  EXPECT_EQ(OutcomeWarnings(record)[0].message, "fab-t aimed at 8 of 9 other classes; 9 are usual");
}

}  // namespace
}  // namespace ham
