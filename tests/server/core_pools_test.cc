// Pools: evaluations, whose ranks come and go.
#include "tests/server/core_fixture.h"

namespace ham::server {
namespace {

using ham::v1::Job;
using ham::v1::ObservedRank;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

class CorePoolsTest : public CoreTest {
 protected:
  void SubmitPool(const std::string& name, int most, int max_attempts = 5) {
    JobRow row = NewJob(name, most, max_attempts);
    row.pool = true;
    Must(SubmitJob{row});
  }
  std::vector<int> Ranks(const std::string& job) const {
    std::vector<int> ranks;
    for (const Placement& place : Row(job).gang) ranks.push_back(place.rank);
    return ranks;
  }
  // A pool of up to four ranks, two of which run, on workers a and b of one slot each.
  void RunTwo(int max_attempts = 5) {
    Register("a", 1);
    Register("b", 1);
    SubmitPool("e", 4, max_attempts);
    Beat("a", {Rank("e", 1, 0, ObservedRank::RUNNING)});
    Beat("b", {Rank("e", 1, 1, ObservedRank::RUNNING)});
    ASSERT_EQ(State("e"), Job::RUNNING);
    ASSERT_THAT(Ranks("e"), ElementsAre(0, 1));
  }
};

TEST_F(CorePoolsTest, StartsWithTheSlotsThereAreAndGrows) {
  SubmitPool("e", 3);
  EXPECT_EQ(Row("e").state_reason, "NO_WORKER_FITS");
  EXPECT_THAT(Row("e").state_message, HasSubstr("Needs a cpu slot with"));
  Register("a", 1);
  EXPECT_EQ(State("e"), Job::STARTING);
  EXPECT_THAT(DesiredOf("a"), ElementsAre("e/1/0@0"));
  Beat("a", {Rank("e", 1, 0, ObservedRank::RUNNING)});
  EXPECT_EQ(State("e"), Job::RUNNING);
  Register("b", 4);
  EXPECT_THAT(DesiredOf("b"), ElementsAre("e/1/1@0", "e/1/2@1"));
  EXPECT_THAT(log_["e"], Contains("RUNNING>RUNNING RANKS_JOINED"));
  EXPECT_THAT(Ranks("e"), ElementsAre(0, 1, 2));
}

TEST_F(CorePoolsTest, GrowsOnlyByTheSameDataAndBuild) {
  Register("a", 1);
  SubmitPool("e", 4);
  WorkerRegistered other = Registration("b", 1);
  other.registration.mutable_data_sets(0)->set_digest("d2");
  Must(other);
  other = Registration("c", 1);
  other.registration.set_build_id("b2");
  Must(other);
  EXPECT_THAT(Ranks("e"), ElementsAre(0));
  Register("d", 1);
  EXPECT_THAT(DesiredOf("d"), ElementsAre("e/1/1@0"));
}

TEST_F(CorePoolsTest, DoesNotGrowPastAJobThatWaits) {
  Register("a", 2);
  Submit("single");
  SubmitPool("e", 4);
  Submit("pair", 2);
  EXPECT_THAT(Ranks("e"), ElementsAre(0));
  Register("b", 1);  // a place in the queue: the pool came first
  EXPECT_THAT(Ranks("e"), ElementsAre(0, 1));
  Submit("triple", 3);
  JobRow late = NewJob("late", 2);
  late.pool = true;
  Must(SubmitJob{late});
  Register("c", 1);
  EXPECT_THAT(Ranks("e"), ElementsAre(0, 1, 2));
  Register("d", 1);
  EXPECT_THAT(Ranks("e"), ElementsAre(0, 1, 2, 3));
  Register("f", 1);  // kept for the pair
  EXPECT_EQ(State("pair"), Job::QUEUED);
  EXPECT_EQ(Row("late").state_reason, "BEHIND_EARLIER_JOB");
}

TEST_F(CorePoolsTest, GoesOnWithoutALostRankAndNeverUsesItsNumberAgain) {
  RunTwo();
  Beat("a", {Exited("e", 1, 0, false)});
  EXPECT_EQ(State("e"), Job::RUNNING);
  EXPECT_EQ(Row("e").attempt, 1);
  EXPECT_EQ(Row("e").failed_attempts, 0) << "others go on";
  EXPECT_THAT(log_["e"], Contains("RUNNING>RUNNING TRAINER_CRASH"));
  EXPECT_THAT(Ranks("e"), ElementsAre(1, 2)) << "it is made good at once";
  EXPECT_THAT(DesiredOf("a"), ElementsAre("e/1/2@0"));
  EXPECT_THAT(core_->RunningRanks("e"), ElementsAre(1));
}

TEST_F(CorePoolsTest, GivesAWorkerUpWhereRanksFailAgainAndAgain) {
  RunTwo();
  for (const int rank : {0, 2, 3}) Beat("a", {Exited("e", 1, rank, false)});
  EXPECT_THAT(Ranks("e"), ElementsAre(1));
  Beat("a", {});
  EXPECT_THAT(Ranks("e"), ElementsAre(1));
  EXPECT_EQ(State("e"), Job::RUNNING);
  Submit("other");
  EXPECT_THAT(DesiredOf("a"), ElementsAre("other/1/0@0")) << "only the pool avoids it";
  Beat("a", {Exited("other", 1, 0, false, ham::v1::USER)});
  EXPECT_THAT(Ranks("e"), ElementsAre(1));
  Register("a", 1, "i2");  // somebody has had a look at it
  EXPECT_THAT(Ranks("e"), ElementsAre(1, 4));
}

TEST_F(CorePoolsTest, StartsARankThatJoinedJustBeforeARestart) {
  Register("a", 1);
  SubmitPool("e", 2);
  Beat("a", {Rank("e", 1, 0, ObservedRank::RUNNING)});
  Register("b", 1);
  ASSERT_THAT(Ranks("e"), ElementsAre(0, 1));
  Restart();  // before b was told
  Register("a", 1, "i1", {Rank("e", 1, 0, ObservedRank::RUNNING)});
  Register("b", 1);
  EXPECT_THAT(DesiredOf("b"), ElementsAre("e/1/1@0"));
  EXPECT_THAT(log_["e"], Not(Contains(HasSubstr("WORKER_LOST"))));
}

// Simulation, seed 7, walk 4959016688878327255.
TEST_F(CorePoolsTest, ALateBeatFromBeforeTheAssignmentsAfterARestartLosesNoRank) {
  Register("a", 1);
  SubmitPool("e", 2);
  Restart();  // before a was told
  Register("a", 1);
  WorkerBeat late = BeatOf("a", {});
  late.desired_version = 0;
  Beat("a", {Rank("e", 1, 0, ObservedRank::RUNNING)});
  Must(late);
  EXPECT_THAT(DesiredOf("a"), ElementsAre("e/1/0@0"));
  EXPECT_THAT(log_["e"], Not(Contains(HasSubstr("WORKER_LOST"))));
}

TEST_F(CorePoolsTest, DoesNotHoldItAgainstAWorkerThatItWasRestarted) {
  RunTwo();
  for (const char* incarnation : {"i2", "i3", "i4", "i5"}) Register("a", 1, incarnation);
  EXPECT_THAT(Ranks("e"), ElementsAre(1, 5));
}

TEST_F(CorePoolsTest, AnAttemptFailsWithItsLastRank) {
  Register("a", 1);
  SubmitPool("e", 4, 2);
  Beat("a", {Exited("e", 1, 0, false)});
  EXPECT_EQ(Row("e").failed_attempts, 1);
  EXPECT_EQ(Row("e").attempt, 2) << "the first retry is immediate";
  Must(WorkFinished{"e"});
  EXPECT_EQ(Row("e").failed_attempts, 0);
  Beat("a", {Exited("e", 2, 0, false)});
  EXPECT_EQ(Row("e").failed_attempts, 1);
  EXPECT_EQ(Row("e").attempt, 3) << "there was progress since the failure before";
  Beat("a", {Exited("e", 3, 0, false)});
  EXPECT_EQ(State("e"), Job::FAILED);
  EXPECT_THAT(Row("e").state_message, HasSubstr("2 attempts failed without a finished block"));
  Must(WorkFinished{"e"});
  Must(WorkFinished{"unknown"});
}

TEST_F(CorePoolsTest, StartsAnewWithWhatItBeganWith) {
  RunTwo();
  Disconnect("a");
  Disconnect("b");
  WorkerRegistered other = Registration("c", 4);
  other.registration.set_build_id("b2");
  Must(other);
  Pass(absl::Minutes(1), [this] { Beat("c", {}); });
  EXPECT_EQ(State("e"), Job::QUEUED);
  Pass(absl::Minutes(6), [this] { Beat("c", {}); });
  EXPECT_EQ(Row("e").state_reason, "NO_WORKER_FITS");
  EXPECT_THAT(Row("e").state_message, HasSubstr("and build b1, as when it began"));
  Restart();
  Must(other);
  EXPECT_EQ(State("e"), Job::QUEUED);
  Pass(absl::Minutes(6), [this] { Beat("c", {}); });
  Register("a", 1, "i2");
  EXPECT_EQ(Row("e").attempt, 2);
  EXPECT_THAT(Ranks("e"), ElementsAre(0));
}

TEST_F(CorePoolsTest, FailsForWhatIsTheUsersFaultUnlessOtherRanksRun) {
  RunTwo();
  Beat("a", {Exited("e", 1, 0, false, ham::v1::USER)});
  EXPECT_EQ(State("e"), Job::RUNNING) << "its files, say";
  EXPECT_THAT(Ranks("e"), ElementsAre(1)) << "not there again";
  Beat("b", {Exited("e", 1, 1, false, ham::v1::USER)});
  EXPECT_EQ(State("e"), Job::FAILED);
  EXPECT_EQ(Row("e").failure_class, ham::v1::USER);
}

TEST_F(CorePoolsTest, FailsAtOnceForWhatIsTheUsersFaultBeforeAnyRankRuns) {
  Register("a", 1);
  Register("b", 1);
  SubmitPool("e", 2);
  Beat("a", {Exited("e", 1, 0, false, ham::v1::USER)});
  EXPECT_EQ(State("e"), Job::RECOVERING);
  Beat("b", {});
  EXPECT_EQ(State("e"), Job::FAILED);
}

TEST_F(CorePoolsTest, TakesARankThatEndsByItselfForLost) {
  RunTwo();
  Beat("a", {Exited("e", 1, 0, true)});
  EXPECT_EQ(State("e"), Job::RUNNING);
  EXPECT_THAT(log_["e"], Contains("RUNNING>RUNNING TRAINER_CRASH"));
}

TEST_F(CorePoolsTest, SucceedsWithItsRecordAndStopsItsRanks) {
  RunTwo();
  Submit("next");
  Must(EvaluationRecorded{"e", "abc"});
  EXPECT_EQ(State("e"), Job::SUCCEEDED);
  EXPECT_EQ(Row("e").record_digest, "abc");
  EXPECT_THAT(Row("e").gang, IsEmpty());
  EXPECT_THAT(DesiredOf("a"), IsEmpty());
  EXPECT_EQ(State("next"), Job::QUEUED) << "the slots are in use until the ranks are gone";
  Beat("b", {});
  EXPECT_EQ(State("next"), Job::STARTING);
  Must(EvaluationRecorded{"e", "abc"});
  EXPECT_EQ(Apply(EvaluationRecorded{"e", "other"}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Apply(EvaluationRecorded{"next", "abc"}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Apply(EvaluationRecorded{"unknown", "abc"}).code(), absl::StatusCode::kNotFound);
}

TEST_F(CorePoolsTest, SucceedsBeforeItIsSeenToRun) {
  Register("a", 1);
  SubmitPool("e", 1);
  Must(EvaluationRecorded{"e", "abc"});
  EXPECT_THAT(log_["e"], ElementsAre("STATE_UNSPECIFIED>QUEUED SUBMITTED", "QUEUED>STARTING GANG_PLACED",
                                     "STARTING>RUNNING WORK_DONE", "RUNNING>SUCCEEDED COMPLETED"));
}

TEST_F(CorePoolsTest, TakesNoRecordOnceItIsBeingCancelled) {
  RunTwo();
  Must(CancelJob{"e", "admin"});
  EXPECT_EQ(Apply(EvaluationRecorded{"e", "abc"}).code(), absl::StatusCode::kFailedPrecondition);
  Beat("a", {});
  Beat("b", {Exited("e", 1, 1, true)});
  EXPECT_EQ(State("e"), Job::CANCELLED);
}

TEST_F(CorePoolsTest, OutlivesTheCoordinator) {
  Register("a", 1);
  Register("b", 1);
  SubmitPool("e", 4);
  ASSERT_EQ(State("e"), Job::STARTING);
  Restart();
  EXPECT_EQ(State("e"), Job::STARTING) << "its ranks need no rendezvous";
  EXPECT_EQ(Row("e").attempt, 1);
  Register("c", 1);
  Register("a", 1, "i1", {Rank("e", 1, 0, ObservedRank::RUNNING)});
  EXPECT_EQ(State("e"), Job::RUNNING);
  EXPECT_THAT(Ranks("e"), ElementsAre(0, 1, 2));
  EXPECT_THAT(DesiredOf("c"), ElementsAre("e/1/2@0"));
}

TEST_F(CorePoolsTest, UndoesAJoinWithItsBatch) {
  RunTwo();
  ASSERT_TRUE(Apply(Registration("c", 1)).ok());
  EXPECT_THAT(Ranks("e"), SizeIs(3));
  core_->RollbackBatch();
  EXPECT_THAT(core_->CheckInvariants(), IsEmpty());
  EXPECT_THAT(Ranks("e"), ElementsAre(0, 1));
  Register("c", 1);
  EXPECT_THAT(Ranks("e"), ElementsAre(0, 1, 2));
}

}  // namespace
}  // namespace ham::server
