#include "worker/trainer/evaluation/attack_text.h"

#include <gtest/gtest.h>

namespace ham::trainer {
namespace {

const Ball kBall{Norm::kLinf, 0.1};

TEST(ParseDistanceTest, TakesNumbersAndQuotients) {
  EXPECT_DOUBLE_EQ(*ParseDistance("--epsilon", "8/255", Norm::kLinf), 8.0 / 255);
  EXPECT_DOUBLE_EQ(*ParseDistance("--epsilon", "0.1", Norm::kLinf), 0.1);
  EXPECT_DOUBLE_EQ(*ParseDistance("--epsilon", "2", Norm::kL2), 2);
}

TEST(ParseDistanceTest, RefusesTheRest) {
  for (const char* text : {"0", "-0.1", "2", "8/0", "0/0", "nan", "inf", "", "/", "8/", "a", "8/255/2"}) {
    const auto parsed = ParseDistance("--epsilon", text, Norm::kLinf);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(parsed.status().message().find("--epsilon is \"" + std::string(text) + "\""), std::string::npos);
  }
}

TEST(ParseAttacksTest, StandardIsAutoAttack) {
  const auto attacks = ParseAttacks("standard", kBall);
  ASSERT_TRUE(attacks.ok()) << attacks.status();
  ASSERT_EQ(attacks->size(), 4u);
  EXPECT_EQ((*attacks)[0].name, AttackName::kApgd);
  EXPECT_EQ((*attacks)[0].loss, AttackLoss::kCrossEntropy);
  EXPECT_EQ((*attacks)[0].steps, 100);
  EXPECT_EQ((*attacks)[1].name, AttackName::kApgdTargeted);
  EXPECT_EQ((*attacks)[1].targets, 9);
  EXPECT_EQ((*attacks)[2].name, AttackName::kFabTargeted);
  EXPECT_EQ((*attacks)[2].targets, 9);
  EXPECT_EQ((*attacks)[3].name, AttackName::kSquare);
  EXPECT_EQ((*attacks)[3].steps, 5000);
}

TEST(ParseAttacksTest, StandardIsOneOfAList) {
  const auto attacks = ParseAttacks("standard,pgd", kBall);
  ASSERT_TRUE(attacks.ok()) << attacks.status();
  ASSERT_EQ(attacks->size(), 5u);
  EXPECT_EQ(attacks->back().name, AttackName::kPgd);
}

TEST(ParseAttacksTest, TakesOptions) {
  const auto attacks = ParseAttacks(
      "pgd:steps=50:loss=margin:step_size=0.02:random_start=false:judged_at=any,apgd-t:targets=3:restarts=2", kBall);
  ASSERT_TRUE(attacks.ok()) << attacks.status();
  const EvaluationAttack& pgd = attacks->front();
  EXPECT_EQ(pgd.steps, 50);
  EXPECT_EQ(pgd.loss, AttackLoss::kMargin);
  EXPECT_EQ(pgd.step_size, 0.02);
  EXPECT_FALSE(pgd.random_start);
  EXPECT_EQ(pgd.judged_at, JudgedAt::kAny);
  EXPECT_EQ(attacks->back().targets, 3);
  EXPECT_EQ(attacks->back().restarts, 2);
  EXPECT_DOUBLE_EQ(ParseAttacks("pgd", kBall)->front().step_size, 0.01);
}

TEST(ParseAttacksTest, SaysWhatIsWrong) {
  for (const auto& [text, what] :
       {std::pair("autoattack", "--attacks has \"autoattack\"; allowed are standard, pgd"), std::pair("", "has \"\""),
        std::pair("apgd,", "has \"\""), std::pair("standard,standard,standard,standard,pgd", "names 17 attacks"),
        std::pair("pgd:step=5", "the option \"step=5\"; allowed are judged_at"),
        std::pair("pgd:name=apgd", "the option \"name=apgd\""), std::pair("pgd:steps", "steps"),
        std::pair("pgd:steps=0", "--attacks pgd.steps is 0"),
        std::pair("apgd:step_size=0.1", "--attacks apgd.step_size"),
        std::pair("fab-t:targets=0", "--attacks fab-t.targets is 0"), std::pair("pgd:loss=cw", "loss is \"cw\"")}) {
    const auto attacks = ParseAttacks(text, kBall);
    EXPECT_EQ(attacks.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(attacks.status().message().find(what), std::string::npos) << attacks.status();
  }
}

}  // namespace
}  // namespace ham::trainer
