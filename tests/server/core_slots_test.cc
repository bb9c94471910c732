// Slots with a problem get no ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/server/core_fixture.h"

namespace ham::server {
namespace {

using ::ham::v1::Job;
using ::ham::v1::ObservedRank;
using ::ham::v1::SlotProblem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class SlotTest : public CoreTest {
 protected:
  static SlotProblem Problem(int slot, SlotProblem::Kind kind = SlotProblem::BUSY_FOREIGN) {
    SlotProblem problem;
    problem.set_slot(slot);
    problem.set_kind(kind);
    problem.set_message("The evidence.");
    return problem;
  }
  void BeatWith(const std::vector<SlotProblem>& problems, const std::vector<ObservedRank>& observed = {}) {
    WorkerBeat beat = BeatOf("a", observed);
    beat.problems = problems;
    Must(beat);
  }
  std::vector<std::string> ProblemsShown() const {
    std::vector<std::string> shown;
    for (const ham::v1::Slot& slot : core_->Workers().at(0).slots) {
      shown.push_back(slot.has_problem() ? SlotProblem::Kind_Name(slot.problem().kind()) : "");
    }
    return shown;
  }
};

TEST_F(SlotTest, AreLeftOutUntilTheProblemIsGone) {
  Register("a", 2);
  BeatWith({Problem(1)});
  EXPECT_THAT(ProblemsShown(), ElementsAre("", "BUSY_FOREIGN"));
  Submit("both", 2);
  EXPECT_EQ(Row("both").state_reason, "NO_WORKER_FITS");
  EXPECT_THAT(Row("both").state_message, HasSubstr("Slots that cannot be used: 1 of a (BUSY_FOREIGN)"));
  Submit("one");
  EXPECT_EQ(Row("one").gang.at(0).slot, 0) << "it is not held up by a job that cannot fit now";
  BeatWith({}, {Rank("one", 1, 0, ObservedRank::RUNNING)});
  EXPECT_THAT(ProblemsShown(), ElementsAre("", ""));
  EXPECT_EQ(Row("both").state_reason, "WAITING_FOR_SLOTS");
  EXPECT_THAT(Row("both").state_message, Not(HasSubstr("cannot be used")));
}

TEST_F(SlotTest, AreToldWithTheRegistrationToo) {
  Submit("j");
  WorkerRegistered registration = Registration("a", 1);
  *registration.registration.mutable_slots(0)->mutable_problem() = Problem(7, SlotProblem::DISK_FULL);
  Must(registration);
  EXPECT_EQ(State("j"), Job::QUEUED);
  EXPECT_THAT(ProblemsShown(), ElementsAre("DISK_FULL"));
  Register("a", 1);
  EXPECT_EQ(State("j"), Job::STARTING) << "a registration says all there is";
}

TEST_F(SlotTest, ARankThatRunsInOneGoesOn) {
  Register("a", 1);
  Submit("j");
  BeatWith({Problem(0, SlotProblem::DISK_FULL)}, {Rank("j", 1, 0, ObservedRank::RUNNING)});
  EXPECT_EQ(State("j"), Job::RUNNING);
  EXPECT_EQ(DesiredOf("a").size(), 1u);
}

TEST_F(SlotTest, ACrashInOneIsTheMachinesFault) {
  Register("a", 1);
  Submit("j");
  BeatWith({Problem(0, SlotProblem::GPU_ERROR)}, {Exited("j", 1, 0, false, ham::v1::TRAINER_CRASH)});
  EXPECT_EQ(Row("j").failure_class, ham::v1::INFRASTRUCTURE);
  EXPECT_THAT(log_["j"], ::testing::Contains(HasSubstr("INFRASTRUCTURE")));
  EXPECT_EQ(State("j"), Job::QUEUED) << "it does not start there again";
}

TEST_F(SlotTest, AUsersErrorInOneStaysTheUsers) {
  Register("a", 1);
  Submit("j");
  BeatWith({Problem(0, SlotProblem::GPU_ERROR)}, {Exited("j", 1, 0, false, ham::v1::USER)});
  EXPECT_EQ(Row("j").failure_class, ham::v1::USER);
}

TEST_F(SlotTest, ProblemsOfSlotsThatItDoesNotHaveAreIgnored) {
  Register("a", 1);
  BeatWith({Problem(-1), Problem(1), Problem(1 << 30)});
  EXPECT_THAT(ProblemsShown(), ElementsAre(""));
  Submit("two", 2);
  EXPECT_THAT(Row("two").state_message, Not(HasSubstr("cannot be used")));
}

TEST_F(SlotTest, LongWordsAreCut) {
  Register("a", 1);
  SlotProblem problem = Problem(0);
  problem.set_message(std::string(1 << 20, 'x'));
  BeatWith({problem});
  EXPECT_LT(core_->Workers().at(0).slots.at(0).problem().message().size(), 1000u);
}

TEST_F(SlotTest, AProblemThatChangesItsWordsWritesNoRow) {
  Register("a", 1);
  BeatWith({Problem(0)});
  Submit("j");
  SlotProblem problem = Problem(0);
  problem.set_message("Other evidence.");
  WorkerBeat beat = BeatOf("a", {});
  beat.problems = {problem};
  ASSERT_TRUE(Apply(beat).ok());
  EXPECT_TRUE(Commit().durable_empty());
  EXPECT_EQ(core_->Workers().at(0).slots.at(0).problem().message(), "Other evidence.");
}

TEST_F(SlotTest, ARolledBackBatchForgetsThem) {
  Register("a", 1);
  WorkerBeat beat = BeatOf("a", {});
  beat.problems = {Problem(0)};
  ASSERT_TRUE(Apply(beat).ok());
  core_->RollbackBatch();
  EXPECT_THAT(ProblemsShown(), ElementsAre(""));
}

}  // namespace
}  // namespace ham::server
