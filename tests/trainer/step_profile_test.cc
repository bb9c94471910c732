#include "worker/trainer/step_profile.h"

#include <deque>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ham::trainer {
namespace {

using ::testing::ElementsAre;

// Work is done when the test says so, as on a device.
class ScriptedClock : public PhaseClock {
 public:
  void Mark() override { marks_.push_back(now); }
  std::vector<double> Take(size_t count) override {
    EXPECT_LE(count, marks_.size());
    std::vector<double> out(marks_.begin(), marks_.begin() + static_cast<std::ptrdiff_t>(count));
    marks_.erase(marks_.begin(), marks_.begin() + static_cast<std::ptrdiff_t>(count));
    return out;
  }
  size_t waiting() const { return marks_.size(); }

  double now = 0;

 private:
  std::deque<double> marks_;
};

class StepProfileTest : public ::testing::Test {
 protected:
  void Spend(Phase phase, double seconds) {
    profile_.Enter(phase);
    clock_->now += seconds;
  }

  // 31 seconds.
  void HamStep() {
    Spend(Phase::kData, 1);
    Spend(Phase::kStart, 2);
    Spend(Phase::kAttack, 3);
    profile_.EndPart();
    Spend(Phase::kAttack, 4);
    profile_.EndPart();
    Spend(Phase::kMining, 5);
    Spend(Phase::kAttack, 6);
    profile_.EndPart();
    Spend(Phase::kTrain, 7);
    Spend(Phase::kAllReduce, 2);
    Spend(Phase::kUpdate, 1);
    profile_.Leave();
  }

  ScriptedClock* const clock_ = new ScriptedClock;  // the profile's
  StepProfile profile_{std::unique_ptr<PhaseClock>(clock_)};
};

TEST_F(StepProfileTest, PhasesOfAStepAddUpToIt) {
  HamStep();
  clock_->now += 100;  // between steps: nobody's
  HamStep();
  const PhaseSeconds seconds = profile_.Take();
  EXPECT_EQ(seconds[Phase::kData], 2);
  EXPECT_EQ(seconds[Phase::kStart], 4);
  EXPECT_EQ(seconds[Phase::kAttack], 26);
  EXPECT_EQ(seconds[Phase::kMining], 10);
  EXPECT_EQ(seconds[Phase::kTrain], 14);
  EXPECT_EQ(seconds[Phase::kAllReduce], 4);
  EXPECT_EQ(seconds[Phase::kUpdate], 2);
  EXPECT_EQ(seconds.Attack(), 40);
  EXPECT_EQ(seconds.Train(), 20);
  EXPECT_EQ(seconds.Step(), 62);
  EXPECT_EQ(profile_.Take().Step(), 0);  // once
  EXPECT_TRUE(profile_.spans().empty());
}

TEST_F(StepProfileTest, KeepsMarksOfTheLastStepOnlyAndTakesThoseBefore) {
  HamStep();
  const size_t of_a_step = clock_->waiting();
  for (int step = 0; step < 5; ++step) {
    HamStep();
    EXPECT_EQ(clock_->waiting(), of_a_step);
  }
  EXPECT_EQ(profile_.Take().Step(), 6 * 31);
  EXPECT_EQ(clock_->waiting(), 0);
}

TEST_F(StepProfileTest, EvaluationIsNoPartOfAStep) {
  Spend(Phase::kEvaluation, 4);
  profile_.Leave();
  const PhaseSeconds seconds = profile_.Take();
  EXPECT_EQ(seconds[Phase::kEvaluation], 4);
  EXPECT_EQ(seconds.Step(), 0);
}

TEST_F(StepProfileTest, SpansAreThePhasesAndTheAttackStepsWithinThem) {
  HamStep();
  profile_.Take();
  profile_.KeepSpans();
  clock_->now = 0;
  HamStep();
  HamStep();
  profile_.Take();
  std::vector<double> parts, phases;
  for (const StepProfile::Span& span : profile_.spans()) {
    if (span.step == 1) continue;
    (span.is_part ? parts : phases).push_back(span.end - span.begin);
    EXPECT_TRUE(!span.is_part || span.phase == Phase::kAttack);
  }
  EXPECT_THAT(parts, ElementsAre(3, 4, 6));
  EXPECT_THAT(phases, ElementsAre(1, 2, 7, 5, 6, 7, 2, 1));
  EXPECT_EQ(profile_.spans().size(), 2 * 11);
  EXPECT_EQ(profile_.spans().back().step, 1);
  EXPECT_EQ(profile_.spans().back().end, 62);
}

TEST(HostClockTest, GivesItsMarksInOrderOnce) {
  HostClock clock;
  for (int i = 0; i < 3; ++i) clock.Mark();
  const std::vector<double> two = clock.Take(2), last = clock.Take(1);
  EXPECT_LE(two[0], two[1]);
  EXPECT_LE(two[1], last[0]);
}

}  // namespace
}  // namespace ham::trainer
