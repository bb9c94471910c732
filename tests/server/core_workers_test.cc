// Registrations, beats, fences, leases.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/server/core_fixture.h"

namespace ham::server {
namespace {

using ham::v1::Job;
using ham::v1::ObservedRank;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(CoreTest, RefusesWhatIsNotCurrent) {
  RunSingle();
  EXPECT_TRUE(core_->CheckFence(1, "j", 1).ok());
  EXPECT_EQ(core_->CheckFence(2, "j", 1).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(core_->CheckFence(1, "j", 2).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(core_->CheckFence(1, "other", 1).code(), absl::StatusCode::kAborted);
  Beat("a", {Exited("j", 1, 0, false)});
  const std::vector<Event> stale = {CheckpointCommitted{1, "j", CheckpointOf(1, 10)},
                                    WorkerBeat{"id-a", 7, {Exited("j", 2, 0, true)}}, WorkerBeat{"id-x", 1, {}},
                                    WorkerDisconnected{"id-a", 7}, WorkerDisconnected{"id-x", 1}};
  for (const Event& event : stale) {
    EXPECT_EQ(Apply(event).code(), absl::StatusCode::kAborted);
    EXPECT_TRUE(core_->pending().durable_empty());
  }
  EXPECT_EQ(State("j"), Job::STARTING);
}

TEST_F(CoreTest, IgnoresRanksOfStaleAttemptsInABeat) {
  RunSingle();
  Beat("a", {Exited("j", 1, 0, false)});
  Beat("a", {Exited("j", 1, 0, true), Rank("j", 2, 0, ObservedRank::RUNNING)});
  EXPECT_EQ(State("j"), Job::RUNNING);
  EXPECT_EQ(Row("j").attempt, 2);
}

TEST_F(CoreTest, DoesNotTakeAnUnseenAssignmentForALostRank) {
  Register("a", 1);
  Submit("j");
  Beat("a", {});
  EXPECT_EQ(State("j"), Job::STARTING);
  EXPECT_EQ(Row("j").attempt, 1);
  Register("a", 1, "i1");
  EXPECT_EQ(Row("j").attempt, 1);
}

TEST_F(CoreTest, TakesARankForLostThatItsWorkerStopsReporting) {
  RunSingle();
  Beat("a", {});
  EXPECT_EQ(Row("j").attempt, 2);
  EXPECT_EQ(Row("j").failure_class, ham::v1::WORKER_LOST);
}

TEST_F(CoreTest, AWorkerThatLeavesGetsNoRankUntilItRegistersAgain) {
  RunSingle();
  WorkerBeat last = BeatOf("a", {Exited("j", 1, 0, false, ham::v1::PREEMPTED)});
  last.leaving = true;
  Must(last);
  EXPECT_EQ(State("j"), Job::QUEUED);
  EXPECT_EQ(Row("j").failed_attempts, 0);
  Beat("a", {});
  EXPECT_EQ(State("j"), Job::QUEUED);
  Register("b", 1);
  EXPECT_EQ(State("j"), Job::STARTING);
  EXPECT_EQ(Row("j").gang.at(0).worker_id, "id-b");
  Register("a", 1, "i2");
  Submit("k");
  EXPECT_EQ(Row("k").gang.at(0).worker_id, "id-a");
}

TEST_F(CoreTest, ARankThatALeavingWorkerNeverStartedIsNobodysFault) {
  Register("a", 1);
  WorkerBeat leaving = BeatOf("a", {});  // from before the assignment
  leaving.leaving = true;
  Submit("j");
  ASSERT_EQ(State("j"), Job::STARTING);
  Must(leaving);
  EXPECT_EQ(State("j"), Job::QUEUED);
  EXPECT_EQ(Row("j").failure_class, ham::v1::PREEMPTED);
  EXPECT_EQ(Row("j").failed_attempts, 0);
}

TEST_F(CoreTest, ALeavingWorkerKeepsTheRanksThatItIsStopping) {
  RunSingle();
  WorkerBeat leaving = BeatOf("a", {Rank("j", 1, 0, ObservedRank::RUNNING)});
  leaving.leaving = true;
  Must(leaving);
  EXPECT_EQ(State("j"), Job::RUNNING);
  EXPECT_EQ(Row("j").attempt, 1);
}

TEST_F(CoreTest, IgnoresABeatFromBeforeTheAssignment) {
  Register("a", 1);
  const WorkerBeat late = BeatOf("a", {});
  Submit("j");
  Beat("a", {Rank("j", 1, 0, ObservedRank::RUNNING)});
  Must(late);
  EXPECT_EQ(State("j"), Job::RUNNING);
}

TEST_F(CoreTest, GoesOnWhenAWorkerReconnects) {
  RunSingle();
  Disconnect("a");
  Pass(absl::Seconds(14));
  Register("a", 1, "i1", {Rank("j", 1, 0, ObservedRank::RUNNING)});
  EXPECT_EQ(State("j"), Job::RUNNING);
  EXPECT_EQ(Row("j").attempt, 1);
  EXPECT_EQ(core_->FindWorker("id-a")->session, 1);
}

TEST_F(CoreTest, LosesAllRanksOfAnOlderIncarnation) {
  RunPair();
  ASSERT_TRUE(Apply(Registration("a", 1, "i2")).ok());
  const Effects effects = Commit();
  EXPECT_EQ(effects.workers.at("id-a").session, 3);  // sessions are unique over all workers
  EXPECT_EQ(State("j"), Job::RECOVERING);
  EXPECT_EQ(Row("j").failure_class, ham::v1::WORKER_LOST);
  EXPECT_EQ(core_->CheckFence(1, "j", 1).code(), absl::StatusCode::kAborted);
  Beat("b", {});
  EXPECT_EQ(State("j"), Job::STARTING);
}

TEST_F(CoreTest, LosesARankThatAnOlderIncarnationWasNeverSeenStarting) {
  Register("a", 1);
  Submit("j");
  ASSERT_EQ(State("j"), Job::STARTING);
  Register("a", 1, "i2");
  EXPECT_EQ(Row("j").attempt, 2);
  EXPECT_EQ(Row("j").gang.at(0).session, 2);
}

TEST_F(CoreTest, TellsEachNewConnectionEverything) {
  RunSingle();
  const int64_t version = core_->DesiredVersion("id-a");
  ASSERT_TRUE(Apply(Registration("a", 1, "i1", {Rank("j", 1, 0, ObservedRank::RUNNING)})).ok());
  EXPECT_THAT(Commit().desired_changed, ElementsAre("id-a"));
  EXPECT_GT(core_->DesiredVersion("id-a"), version);
}

TEST_F(CoreTest, RefusesASecondWorkerOfOneName) {
  RunSingle();
  WorkerRegistered other = Registration("a", 1);
  other.registration.set_worker_id("id-other");
  EXPECT_EQ(Apply(other).code(), absl::StatusCode::kAlreadyExists);  // connected
  Disconnect("a");
  EXPECT_EQ(Apply(other).code(), absl::StatusCode::kAlreadyExists);  // its ranks may still run
  Pass(absl::Seconds(16));
  Must(other);
  EXPECT_EQ(core_->FindWorker("id-other")->name, "a");
  EXPECT_EQ(core_->Workers().size(), 1u);
  EXPECT_EQ(Apply(Registration("a", 1)).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(stored_workers_.at("id-a").session, 1);  // kept: its sessions only grow
}

TEST_F(CoreTest, LosesTheRanksOfAWorkerWhoseLeaseIsOver) {
  RunSingle();
  Register("b", 1);
  Disconnect("a");
  Pass(absl::Seconds(14), [&] { Beat("b", {}); });
  EXPECT_EQ(State("j"), Job::RUNNING);
  Pass(absl::Seconds(1), [&] { Beat("b", {}); });
  EXPECT_EQ(State("j"), Job::STARTING);
  EXPECT_THAT(DesiredOf("b"), ElementsAre("j/2/0@0"));
  EXPECT_EQ(Row("j").failure_class, ham::v1::WORKER_LOST);
}

TEST_F(CoreTest, KeepsASlotOccupiedWhileAStaleRankRunsOnIt) {
  RunSingle();
  Disconnect("a");
  Pass(absl::Seconds(16));
  ASSERT_EQ(State("j"), Job::QUEUED);
  Register("a", 1, "i1", {Rank("j", 1, 0, ObservedRank::RUNNING)});
  EXPECT_THAT(DesiredOf("a"), IsEmpty());
  EXPECT_EQ(State("j"), Job::QUEUED);
  EXPECT_EQ(core_->Workers().at(0).slots.at(0).job(), "j");
  Beat("a", {Rank("j", 1, 0, ObservedRank::RUNNING)});
  EXPECT_EQ(State("j"), Job::QUEUED);
  Beat("a", {});
  EXPECT_EQ(State("j"), Job::STARTING);
  EXPECT_EQ(Row("j").attempt, 2);
}

TEST_F(CoreTest, TakesNoOldBeatForProofThatALostRankIsGone) {
  Register("a", 1);
  const WorkerBeat late = BeatOf("a", {});
  Submit("j");
  const WorkerBeat later = {"id-a", 1, {}, core_->DesiredVersion("id-a")};
  Pass(absl::Seconds(16));
  ASSERT_EQ(State("j"), Job::QUEUED);
  Must(late);  // from before the assignment: it may have arrived since
  EXPECT_EQ(State("j"), Job::QUEUED);
  Must(later);  // its worker does not know yet that it is to stop
  EXPECT_EQ(State("j"), Job::QUEUED);
  Beat("a", {});
  EXPECT_EQ(State("j"), Job::STARTING);
}

TEST_F(CoreTest, LeavesOtherSlotsOfAWorkerWithAStaleRankFree) {
  Register("a", 2);
  Submit("j");
  Beat("a", {Rank("j", 1, 0, ObservedRank::RUNNING)});
  Disconnect("a");
  Pass(absl::Seconds(16));
  Register("a", 2, "i1", {Rank("j", 1, 0, ObservedRank::RUNNING)});
  EXPECT_THAT(DesiredOf("a"), ElementsAre("j/2/0@1"));
}

TEST_F(CoreTest, PlacesNothingOnASilentWorker) {
  Register("a", 1);
  Pass(absl::Seconds(16));
  EXPECT_EQ(core_->Workers().at(0).state, ham::v1::Worker::UNREACHABLE);
  Submit("j");
  EXPECT_EQ(State("j"), Job::QUEUED);
  Beat("a", {});
  EXPECT_EQ(State("j"), Job::STARTING);
}

TEST_F(CoreTest, HoldsTheVerdictWhileThePeersOfASilentWorkerAdvance) {
  RunPair();
  Disconnect("a");
  int64_t sequence = 0;
  Pass(absl::Seconds(60), [&] { Beat("b", {Rank("j", 1, 1, ObservedRank::RUNNING, ++sequence)}); });
  EXPECT_EQ(State("j"), Job::RUNNING);
  Pass(absl::Seconds(13), [&] { Beat("b", {Rank("j", 1, 1, ObservedRank::RUNNING, sequence)}); });
  EXPECT_EQ(State("j"), Job::RUNNING);
  Pass(absl::Seconds(2), [&] { Beat("b", {Rank("j", 1, 1, ObservedRank::RUNNING, sequence)}); });
  EXPECT_EQ(State("j"), Job::RECOVERING);
}

// What a peer did before the silence began may be told after it.
TEST_F(CoreTest, TakesAnAdvanceToBeAsOldAsItMayBe) {
  RunPair();
  Beat("b", {Rank("j", 1, 1, ObservedRank::RUNNING, 6)});
  Beat("a", {Rank("j", 1, 0, ObservedRank::RUNNING, 6)});
  Disconnect("a");
  Advance(absl::Milliseconds(900));
  Beat("b", {Rank("j", 1, 1, ObservedRank::RUNNING, 7)});
  Pass(absl::Seconds(14), [&] { Beat("b", {Rank("j", 1, 1, ObservedRank::RUNNING, 7)}); });
  EXPECT_EQ(State("j"), Job::RUNNING);
  Advance(absl::Milliseconds(100));
  Must(TimerFired{});
  EXPECT_EQ(State("j"), Job::RECOVERING);
}

TEST_F(CoreTest, TakesNoOldAdvanceForEvidence) {
  RunPair();
  Beat("b", {Rank("j", 1, 1, ObservedRank::RUNNING, 7)});
  Advance(absl::Seconds(1));
  Beat("a", {Rank("j", 1, 0, ObservedRank::RUNNING, 7)});
  Disconnect("a");
  Pass(absl::Seconds(16), [&] { Beat("b", {Rank("j", 1, 1, ObservedRank::RUNNING, 7)}); });
  EXPECT_EQ(State("j"), Job::RECOVERING);
}

TEST_F(CoreTest, GivesTheNameOfAWorkerWhoseStreamIsOpenButSilentAway) {
  Register("a", 1);
  Pass(absl::Seconds(16));
  WorkerRegistered other = Registration("a", 1);
  other.registration.set_worker_id("id-other");
  EXPECT_TRUE(Apply(other).ok());
}

TEST_F(CoreTest, RefusesAnIncarnationThatIsNoNewerThanAnother) {
  const auto agent = [](const std::string& incarnation, int64_t number) {
    WorkerRegistered event = Registration("a", 1, incarnation);
    event.registration.set_incarnation_number(number);
    return event;
  };
  Must(agent("i2", 2));
  for (const auto& [late, number] : {std::pair("i1", 1), std::pair("copy", 2)}) {
    const absl::Status status = Apply(agent(late, number));
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << late;
    EXPECT_THAT(std::string(status.message()), HasSubstr("copies of one state directory")) << late;
  }
  EXPECT_EQ(core_->FindWorker("id-a")->session, 1);
  Restart();
  EXPECT_EQ(Apply(agent("i1", 1)).code(), absl::StatusCode::kAborted);
  Must(agent("i2", 2));
  EXPECT_EQ(core_->FindWorker("id-a")->session, 1);
  Must(agent("i3", 3));
  EXPECT_EQ(core_->FindWorker("id-a")->session, 2);
  Must(agent("of a release that does not count", 0));
  EXPECT_EQ(core_->FindWorker("id-a")->session, 3);
}

// Six workers; a job of one rank on each.
class SilenceTest : public CoreTest {
 protected:
  void SetUp() override {
    for (int i = 0; i < 6; ++i) Register(absl::StrCat("w", i), 1);
    for (int i = 0; i < 6; ++i) Submit(absl::StrCat("j", i));
    BeatFrom(0);
    ASSERT_THAT(Attempts(), ElementsAre(1, 1, 1, 1, 1, 1));
  }
  // Beats of the workers from `first` on.
  void BeatFrom(int first) {
    for (int i = first; i < 6; ++i) {
      std::vector<ObservedRank> ranks;
      for (const DesiredRank& rank : core_->Desired(absl::StrCat("id-w", i))) {
        ranks.push_back(Rank(rank.job, rank.attempt, rank.rank, ObservedRank::RUNNING));
      }
      Beat(absl::StrCat("w", i), ranks);
    }
  }
  std::vector<int> Attempts() const {
    std::vector<int> attempts;
    for (int i = 0; i < 6; ++i) attempts.push_back(Row(absl::StrCat("j", i)).attempt);
    return attempts;
  }
  int Running() const {
    int running = 0;
    for (int i = 0; i < 6; ++i) running += State(absl::StrCat("j", i)) == Job::RUNNING ? 1 : 0;
    return running;
  }
};

TEST_F(SilenceTest, FreezesLeasesWhileManyWorkersThatFellSilentTogetherStaySo) {
  Pass(absl::Minutes(30), [&] { BeatFrom(3); });
  EXPECT_EQ(Running(), 6);
  EXPECT_GT(core_->FrozenUntil(), now().steady);
  Pass(absl::Seconds(60), [&] { BeatFrom(0); });
  EXPECT_EQ(Running(), 6);
  EXPECT_LE(core_->FrozenUntil(), now().steady);
}

TEST_F(SilenceTest, FreezesLeasesWhileNobodyIsHeard) {
  Pass(absl::Minutes(30));
  EXPECT_EQ(Running(), 6);
}

TEST_F(SilenceTest, LosesTheFewThatStaySilentAfterAFreeze) {
  Pass(absl::Minutes(5), [&] { BeatFrom(3); });
  Pass(absl::Seconds(31), [&] { BeatFrom(1); });
  EXPECT_EQ(Running(), 5);
  EXPECT_EQ(Row("j0").failure_class, ham::v1::WORKER_LOST);
}

TEST_F(SilenceTest, FreezesNoLeaseForLongerThanAgentsKeepTheirRanks) {
  Pass(absl::Hours(1) + absl::Seconds(16), [&] { BeatFrom(3); });
  EXPECT_EQ(Running(), 3);
}

TEST_F(SilenceTest, AddsNoEarlierSilencesUp) {
  Pass(absl::Seconds(20), [&] { BeatFrom(2); });
  EXPECT_EQ(Running(), 4);
  Pass(absl::Seconds(20), [&] { BeatFrom(3); });
  EXPECT_EQ(Running(), 3);
}

TEST_F(CoreTest, LosesTheOnlyWorkersOfASmallCluster) {
  RunPair();
  Pass(absl::Seconds(16));
  EXPECT_EQ(State("j"), Job::QUEUED);
  EXPECT_EQ(Row("j").failure_class, ham::v1::WORKER_LOST);
}

TEST_F(CoreTest, RefusesAStreamThatComesAfterANewerOne) {
  const auto on_stream = [](int64_t stream, const std::string& incarnation, const std::vector<ObservedRank>& observed) {
    WorkerRegistered event = Registration("a", 1, incarnation, observed);
    event.registration.set_stream(stream);
    return event;
  };
  Must(on_stream(1, "i1", {}));
  Submit("j");
  Beat("a", {Rank("j", 1, 0, ObservedRank::RUNNING)});
  Must(on_stream(3, "i1", {Rank("j", 1, 0, ObservedRank::RUNNING)}));
  for (const int64_t late : {1, 2, 3}) {  // told before the rank was there
    EXPECT_EQ(Apply(on_stream(late, "i1", {})).code(), absl::StatusCode::kAborted) << late;
  }
  EXPECT_EQ(State("j"), Job::RUNNING);
  Must(on_stream(1, "i2", {}));  // a new process begins anew
  EXPECT_NE(State("j"), Job::RUNNING);
}

}  // namespace
}  // namespace ham::server
