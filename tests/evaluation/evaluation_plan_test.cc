#include "proto/evaluation/evaluation_plan.h"

#include <algorithm>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/seed.h"

namespace ham {
namespace {

// What becomes of a row at a stage, whatever else is going on: broken at stage row % 4 - 1, never if that is 2.
RowOutcome OutcomeOf(uint32_t row, int32_t stage, int32_t label) {
  const bool broken = stage == static_cast<int32_t>(row % 4) - 1 && stage < 2;
  return {broken, broken ? label + 1 : label, broken ? -1.0f : static_cast<float>(10 - stage)};
}

std::vector<RowOutcome> OutcomesOf(const WorkBlock& block) {
  std::vector<RowOutcome> out;
  for (const uint32_t row : block.rows) out.push_back(OutcomeOf(row, block.stage, static_cast<int32_t>(row % 3)));
  return out;
}

EvaluationPlan NewPlan(uint32_t rows) {
  std::vector<int32_t> labels;
  for (uint32_t row = 0; row < rows; ++row) labels.push_back(static_cast<int32_t>(row % 3));
  return {labels, 2};
}

void ExpectOutcomes(const EvaluationOutcomes& outcomes) {
  for (uint32_t row = 0; row < outcomes.rows(); ++row) {
    const int32_t label = static_cast<int32_t>(row % 3);
    EXPECT_EQ(outcomes.clean_predictions[row], row % 4 == 0 ? label + 1 : label);
    EXPECT_EQ(outcomes.broken_by[row], row % 4 == 1 ? 0 : row % 4 == 2 ? 1 : kNotBroken);
    EXPECT_EQ(outcomes.attack_predictions[row], row % 4 == 3 ? label : label + 1);
    EXPECT_EQ(outcomes.margins[row], row % 4 == 3 ? 9.0f : -1.0f);
  }
}

TEST(EvaluationPlanTest, TakesEachRowThroughTheStagesUntilItBreaks) {
  EvaluationPlan plan = NewPlan(10);
  std::vector<int32_t> stages;
  while (const auto block = plan.Take(4)) {
    EXPECT_LE(block->rows.size(), 4u);
    stages.push_back(block->stage);
    ASSERT_TRUE(plan.Finish(*block, OutcomesOf(*block)).ok());
  }
  EXPECT_EQ(stages, (std::vector<int32_t>{-1, -1, -1, 0, 0, 1}));
  EXPECT_TRUE(plan.done());
  ExpectOutcomes(plan.outcomes());
}

TEST(EvaluationPlanTest, IsTheSameForBlocksOfAnySizeThatComeBackInAnyOrderOrNever) {
  std::mt19937 random(ham::testing::TestSeed());
  for (int round = 0; round < 50; ++round) {
    EvaluationPlan plan = NewPlan(1 + random() % 60);
    std::vector<WorkBlock> out;
    while (!plan.done()) {
      if (const auto block = plan.Take(1 + random() % 7)) out.push_back(*block);
      ASSERT_FALSE(out.empty());
      std::swap(out[random() % out.size()], out.back());
      switch (random() % 3) {
        case 0:
          ASSERT_TRUE(plan.Finish(out.back(), OutcomesOf(out.back())).ok());
          out.pop_back();
          break;
        case 1:
          plan.GiveBack(out.back());
          out.pop_back();
      }
    }
    ExpectOutcomes(plan.outcomes());
  }
}

TEST(EvaluationPlanTest, CountsWhatIsLeft) {
  EvaluationPlan plan = NewPlan(8);
  EXPECT_EQ(plan.Left(kCleanStage), 8u);
  EXPECT_EQ(plan.Left(1), 8u);
  WorkBlock block = *plan.Take(8);
  EXPECT_FALSE(plan.Take(8).has_value());
  EXPECT_EQ(plan.Left(kCleanStage), 8u);
  ASSERT_TRUE(plan.Finish(block, OutcomesOf(block)).ok());
  EXPECT_EQ(plan.Left(kCleanStage), 0u);
  EXPECT_EQ(plan.Left(0), 6u);
}

TEST(EvaluationPlanTest, RefusesWhatCannotBeAndStaysAsItIs) {
  EvaluationPlan plan = NewPlan(6);
  const WorkBlock block = *plan.Take(3);
  const std::vector<RowOutcome> good = OutcomesOf(block);
  const auto refuses = [&](WorkBlock wrong, std::vector<RowOutcome> outcomes) {
    EXPECT_EQ(plan.Finish(wrong, outcomes).code(), absl::StatusCode::kDataLoss);
  };
  refuses(block, {good[0], good[1]});
  refuses({0, block.rows}, good);
  refuses({kCleanStage, {0, 1, 6}}, good);
  refuses({2, block.rows}, good);  // no such attack
  refuses({-2, block.rows}, good);
  refuses({kCleanStage, {}}, {});
  refuses({100'000'000, {}}, {});
  refuses({kCleanStage, {0, 1, 1}}, good);
  refuses({kCleanStage, {1, 0, 2}}, good);
  refuses(block, {good[0], good[1], {true, 2, 0}});   // its label
  refuses(block, {good[0], good[1], {false, 1, 0}});  // not its label
  refuses(block, {good[0], good[1], {true, -2, 0}});
  EXPECT_EQ(plan.Left(kCleanStage), 6u);
  ASSERT_TRUE(plan.Finish(block, good).ok());
  refuses({0, {0}}, OutcomesOf({0, {0}}));  // the network alone got it wrong
}

TEST(EvaluationPlanTest, TakesTheFirstOutcomeOfARow) {
  EvaluationPlan plan = NewPlan(6);
  const WorkBlock block = *plan.Take(3);
  ASSERT_TRUE(plan.Finish(block, OutcomesOf(block)).ok());
  plan.GiveBack(block);                             // late
  const WorkBlock rest{kCleanStage, {2, 3, 4, 5}};  // not handed out; row 2 comes again
  std::vector<RowOutcome> outcomes = OutcomesOf(rest);
  outcomes[0] = {true, 1, -7};
  ASSERT_TRUE(plan.Finish(rest, outcomes).ok());
  EXPECT_EQ(plan.Left(kCleanStage), 0u);
  while (const auto next = plan.Take(6)) ASSERT_TRUE(plan.Finish(*next, OutcomesOf(*next)).ok());
  ExpectOutcomes(plan.outcomes());
}

}  // namespace
}  // namespace ham
