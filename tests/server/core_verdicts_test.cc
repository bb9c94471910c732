// Ranks that hang, ranks that their peers lost, workers that fail again and again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "absl/strings/str_cat.h"
#include "tests/server/core_fixture.h"

namespace ham::server {
namespace {

using ham::v1::Job;
using ham::v1::ObservedRank;
using ham::v1::ProcessState;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A rank of job j as its worker sees it, from second to second.
struct Trainer {
  int rank = 0;
  int attempt = 1;
  std::string phase = "train";
  int64_t tick = 0;
  int64_t begun = 0;
  int64_t completed = 0;
  double cpu = 0;
  double collective_seconds = 0;
  ProcessState::State state = ProcessState::ACTIVE;
  bool tells_process = true;
  std::optional<double> gpu = std::nullopt;

  void Work(int ticks = 1) {
    tick += ticks;
    begun = ++completed;
    cpu += 1;
  }
  ObservedRank Observed() const {
    ObservedRank observed = Rank("j", attempt, rank, ObservedRank::RUNNING, completed);
    ham::v1::Progress& progress = *observed.mutable_progress();
    progress.set_phase(phase);
    progress.set_tick(tick);
    progress.set_collective_begun(begun);
    progress.set_collective_seconds(collective_seconds);
    if (gpu) observed.set_gpu_utilization(*gpu);
    if (!tells_process) return observed;
    observed.mutable_process()->set_state(state);
    observed.mutable_process()->set_cpu_seconds(cpu);
    return observed;
  }
};

// A gang of two, rank 0 on worker a, rank 1 on worker b.
class VerdictTest : public CoreTest {
 protected:
  void SetUp() override { RunPair(); }

  void BeatBoth() {
    Beat("a", {a_.Observed()});
    if (State("j") == Job::RUNNING) Beat("b", {b_.Observed()});
  }
  // Beats of `span`, with `work` done before each.
  template <typename F>
  void Beats(absl::Duration span, F work) {
    Pass(span, [&] {
      work();
      BeatBoth();
    });
  }
  void Beats(absl::Duration span) {
    Beats(span, [] {});
  }
  void LearnTicks() {
    Beats(absl::Seconds(10), [&] { a_.Work(), b_.Work(); });
  }
  // Seconds until the gang is no longer RUNNING; -1 if it is after ten minutes.
  int SecondsToVerdict() {
    for (int second = 1; second <= 600; ++second) {
      Beats(absl::Seconds(1));
      if (State("j") != Job::RUNNING) return second;
    }
    return -1;
  }

  Trainer a_ = {.rank = 0}, b_ = {.rank = 1};
};

TEST_F(VerdictTest, NamesTheRankThatDidNotComeToACollective) {
  LearnTicks();
  ++a_.begun;
  EXPECT_EQ(SecondsToVerdict(), 30);
  EXPECT_EQ(State("j"), Job::RECOVERING);
  EXPECT_EQ(Row("j").failure_class, ham::v1::HANG);
  EXPECT_THAT(Row("j").state_message,
              AllOf(HasSubstr("Stuck: rank 1 on b: no tick for 30s in phase \"train\", where 30s are allowed"),
                    HasSubstr("rank 0 waits in collective 11")));
  EXPECT_THAT(Row("j").state_message, ::testing::Not(HasSubstr("rank 0 on a")));
  EXPECT_THAT(DesiredOf("a"), IsEmpty());
  EXPECT_THAT(DesiredOf("b"), IsEmpty());
}

TEST_F(VerdictTest, SaysWhatTheGpuDidMeanwhile) {
  b_.gpu = 1;
  LearnTicks();
  ++a_.begun;
  Beats(absl::Seconds(15));
  b_.gpu = 0;
  ham::v1::SlotProblem problem;
  problem.set_kind(ham::v1::SlotProblem::GPU_ERROR);
  problem.set_message("Xid 79.");
  Pass(absl::Seconds(16), [&] {
    Beat("a", {a_.Observed()});
    if (State("j") != Job::RUNNING) return;
    WorkerBeat beat = BeatOf("b", {b_.Observed()});
    beat.problems = {problem};
    Must(beat);
  });
  EXPECT_THAT(Row("j").state_message,
              HasSubstr("; its GPU was busy in 50 % of that time; of its slot: Xid 79; rank 0"));
}

TEST_F(VerdictTest, WaitsAMinuteWhileNoTickIsKnown) {
  Beats(absl::Seconds(3), [&] { a_.Work(), b_.Work(); });
  ++a_.begun;
  EXPECT_EQ(SecondsToVerdict(), 60);
}

TEST_F(VerdictTest, WaitsForFiveTicksOfASlowPhase) {
  a_.phase = b_.phase = "evaluate";
  for (int i = 0; i < 8; ++i) {
    a_.Work(), b_.Work();
    Beats(absl::Seconds(20));
  }
  EXPECT_EQ(SecondsToVerdict(), 100 - 19);
}

TEST_F(VerdictTest, NamesAStoppedProcessWhereverItStopped) {
  LearnTicks();
  ++a_.begun, ++b_.begun;
  b_.state = ProcessState::STOPPED;
  EXPECT_EQ(SecondsToVerdict(), 31);
  EXPECT_THAT(Row("j").state_message,
              AllOf(HasSubstr("rank 1 on b"), HasSubstr("its process is stopped by a signal or a debugger")));
}

TEST_F(VerdictTest, NamesTheLinkWhenAllWaitForEachOther) {
  LearnTicks();
  ++a_.begun, ++b_.begun;
  EXPECT_EQ(SecondsToVerdict(), 62);
  EXPECT_THAT(Row("j").state_message,
              AllOf(HasSubstr("rank 0 on a"), HasSubstr("rank 1 on b"),
                    HasSubstr("all wait for each other in collective 11: a link between ranks is broken")));
}

TEST_F(VerdictTest, ARankThatWaitsForOneThatTicksLives) {
  LearnTicks();
  ++a_.begun;
  b_.phase = "save";
  Beats(absl::Minutes(20), [&] { ++b_.tick; });
  EXPECT_EQ(State("j"), Job::RUNNING);
}

TEST_F(VerdictTest, ARankThatComputesGetsMoreTime) {
  LearnTicks();
  ++a_.begun;
  Beats(absl::Minutes(9), [&] { b_.cpu += 0.5; });
  EXPECT_EQ(State("j"), Job::RUNNING);
  Beats(absl::Minutes(2), [&] { b_.cpu += 0.5; });
  EXPECT_EQ(Row("j").failure_class, ham::v1::HANG);
}

TEST_F(VerdictTest, SoDoesOneThatWaitsForADiskOrWhoseWorkerTellsNothing) {
  LearnTicks();
  ++a_.begun;
  b_.state = ProcessState::BLOCKED;
  Beats(absl::Minutes(9));
  EXPECT_EQ(State("j"), Job::RUNNING);
  b_.state = ProcessState::ACTIVE;
  EXPECT_EQ(SecondsToVerdict(), 2);
  Beat("a", {}), Beat("b", {});
  ASSERT_EQ(State("j"), Job::STARTING);
  a_ = {.rank = 0, .attempt = 2}, b_ = {.rank = 1, .attempt = 2, .tells_process = false};
  Beat("a", {a_.Observed()}), Beat("b", {b_.Observed()});
  LearnTicks();
  ++a_.begun;
  Beats(absl::Minutes(9));
  EXPECT_EQ(State("j"), Job::RUNNING);
  Beats(absl::Minutes(2));
  EXPECT_EQ(Row("j").failure_class, ham::v1::HANG);
}

TEST_F(VerdictTest, AThreadThatSpinsBesideAGpuIsNoWork) {
  JobRow job = NewJob("g");
  job.device = "cuda";
  WorkerRegistered worker = Registration("c", 1);
  worker.registration.mutable_slots(0)->set_device("cuda");
  Must(worker);
  Must(SubmitJob{job});
  Trainer trainer;
  const auto beat = [&] {
    ObservedRank observed = trainer.Observed();
    observed.set_job("g");
    Beat("c", {observed});
  };
  Pass(absl::Seconds(10), [&] { trainer.Work(), beat(); });
  Pass(absl::Seconds(58), [&] { trainer.cpu += 1, beat(); });
  EXPECT_EQ(State("g"), Job::RUNNING);
  Pass(absl::Seconds(3), [&] { trainer.cpu += 1, beat(); });
  EXPECT_EQ(Row("g").failure_class, ham::v1::HANG);
}

TEST_F(VerdictTest, WhoIsNotHeardOfIsNotStuck) {
  LearnTicks();
  ++a_.begun, ++b_.begun;  // b may be to blame; its lease decides
  Pass(absl::Seconds(14), [&] { Beat("a", {a_.Observed()}); });
  EXPECT_EQ(State("j"), Job::RUNNING);
  Pass(absl::Seconds(3), [&] { Beat("a", {a_.Observed()}); });
  EXPECT_EQ(Row("j").failure_class, ham::v1::WORKER_LOST);
}

TEST_F(VerdictTest, AHostThatSleptForAMinuteIsGivenItsTime) {
  LearnTicks();
  ++a_.begun;
  options_.lease = absl::Minutes(5);  // of a core that is made anew
  Restart();
  Register("a", 1, "i1", {a_.Observed()});
  Register("b", 1, "i1", {b_.Observed()});
  Advance(absl::Minutes(4));
  BeatBoth();
  EXPECT_EQ(State("j"), Job::RUNNING);
  EXPECT_EQ(SecondsToVerdict(), 58) << "three seconds of the four minutes count";
}

TEST_F(VerdictTest, PausesOfLessThanABoundDoNoHarm) {
  LearnTicks();
  for (int i = 0; i < 20; ++i) {
    LearnTicks(), LearnTicks();
    ++a_.begun;
    b_.state = ProcessState::STOPPED;
    Beats(absl::Seconds(29));
    b_.state = ProcessState::ACTIVE;
    a_.completed = a_.begun - 1;
    Beats(absl::Seconds(1), [&] { a_.Work(), b_.Work(); });
    ASSERT_EQ(State("j"), Job::RUNNING) << i;
  }
}

TEST_F(VerdictTest, RanksThatConnectWaitForTheOneThatPrepares) {
  Restart();  // no tick is known
  Register("a", 1, "i1", {a_.Observed()});
  Register("b", 1, "i1", {b_.Observed()});
  a_.phase = "connect";
  b_.phase = "";  // its agent still fetches a checkpoint
  Beats(absl::Minutes(15));
  EXPECT_EQ(State("j"), Job::RUNNING);
  b_.phase = "load";
  EXPECT_EQ(SecondsToVerdict(), 62);
  EXPECT_THAT(Row("j").state_message, AllOf(HasSubstr("rank 1 on b"), HasSubstr("rank 0 waits to connect")));
}

TEST_F(VerdictTest, ARankOfAPoolIsJudgedByItself) {
  JobRow job = NewJob("p", 2);
  job.pool = true;
  Register("c", 2);
  Must(SubmitJob{job});
  Trainer good, bad = {.rank = 1};
  good.phase = bad.phase = "evaluate";
  const auto beat = [&] {
    ObservedRank first = good.Observed(), second = bad.Observed();
    first.set_job("p"), second.set_job("p");
    Beat("c", {first, second});
  };
  Pass(absl::Seconds(10), [&] { ++good.tick, ++bad.tick, beat(); });
  Pass(absl::Seconds(32), [&] { ++good.tick, beat(); });
  EXPECT_EQ(State("p"), Job::RUNNING);
  EXPECT_THAT(core_->RunningRanks("p"), ::testing::ElementsAre(0));
  EXPECT_THAT(log_["p"], Contains("RUNNING>RUNNING HANG"));
}

TEST_F(VerdictTest, NotesTheRankThatHoldsTheOthersUpOnce) {
  Beats(absl::Minutes(5), [&] {
    a_.Work(), b_.Work();
    a_.collective_seconds += 0.7;
    b_.collective_seconds += 0.1;
  });
  EXPECT_EQ(State("j"), Job::RUNNING);
  EXPECT_EQ(std::count(log_["j"].begin(), log_["j"].end(), "RUNNING>RUNNING RANK_SLOW"), 1);
}

TEST_F(VerdictTest, WhatWasBeforeARestartMakesNobodySlow) {
  Beats(absl::Seconds(10), [&] {
    a_.Work(), b_.Work();
    a_.collective_seconds = 60, b_.collective_seconds = 1;
  });
  Restart();
  Register("a", 1, "i1", {a_.Observed()});
  Register("b", 1, "i1", {b_.Observed()});
  Beats(absl::Minutes(2), [&] { a_.Work(), b_.Work(); });
  EXPECT_THAT(log_["j"], ::testing::Not(Contains("RUNNING>RUNNING RANK_SLOW")));
}

TEST_F(VerdictTest, NumbersOfAHostileWorkerDoNoHarm) {
  LearnTicks();
  for (const int64_t number : {std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()}) {
    b_.begun = b_.completed = b_.tick = number;
    b_.collective_seconds = b_.cpu = std::numeric_limits<double>::quiet_NaN();
    b_.phase = std::string(1 << 20, 'x');
    Beats(absl::Minutes(2), [&] { ++a_.tick; });
    EXPECT_EQ(State("j"), Job::RUNNING);
  }
}

TEST_F(CoreTest, ARankThatIsBehindAndWaitsTooMeansABrokenLink) {
  for (const char* worker : {"a", "b", "c"}) Register(worker, 1);
  Submit("j", 3);
  std::vector<Trainer> ranks = {{.rank = 0}, {.rank = 1}, {.rank = 2}};
  const auto beats = [&] {
    for (size_t i = 0; i < 3; ++i) {
      if (State("j") != Job::RECOVERING) Beat(std::string(1, static_cast<char>('a' + i)), {ranks[i].Observed()});
    }
  };
  Pass(absl::Seconds(10), [&] {
    for (Trainer& rank : ranks) rank.Work();
    beats();
  });
  for (Trainer& rank : ranks) ++rank.begun;  // and the first is through, and comes to the next
  ++ranks[0].completed, ++ranks[0].begun;
  Pass(absl::Seconds(59), beats);
  EXPECT_EQ(State("j"), Job::RUNNING);
  Pass(absl::Seconds(5), beats);
  EXPECT_EQ(Row("j").failure_class, ham::v1::HANG);
  EXPECT_THAT(Row("j").state_message,
              AllOf(HasSubstr("rank 1 on b"), HasSubstr("rank 2 on c"), HasSubstr("rank 0 waits in collective 12"),
                    HasSubstr("a link between ranks is broken")));
}

TEST_F(VerdictTest, BothThatWaitALotAreNotSlow) {
  Beats(absl::Minutes(5), [&] {
    a_.Work(), b_.Work();
    a_.collective_seconds += 0.7;
    b_.collective_seconds += 0.6;
  });
  EXPECT_THAT(log_["j"], ::testing::Not(Contains("RUNNING>RUNNING RANK_SLOW")));
}

TEST_F(VerdictTest, NotesAWorkerThatIsSilentWhileItsGangGoesOn) {
  Pass(absl::Seconds(20), [&] {
    a_.Work();
    Beat("a", {a_.Observed()});
  });
  EXPECT_EQ(State("j"), Job::RUNNING);
  EXPECT_EQ(std::count(log_["j"].begin(), log_["j"].end(), "RUNNING>RUNNING WORKER_UNREACHABLE"), 1);
}

// ---- ranks that their peers lost -----------------------------------------------------------------------------

ObservedRank LostPeer(int rank, int lost) {
  ObservedRank observed = Exited("j", 1, rank, false, ham::v1::INFRASTRUCTURE);
  observed.mutable_exit()->set_lost_rank(lost);
  return observed;
}

TEST_F(VerdictTest, ARankIsDeadOnceItsStreamIsClosedAndAPeerLostIt) {
  Disconnect("b");
  EXPECT_EQ(State("j"), Job::RUNNING);
  Beat("a", {LostPeer(0, 1)});
  EXPECT_EQ(State("j"), Job::QUEUED) << "and not after b's lease";
  EXPECT_EQ(Row("j").failure_class, ham::v1::WORKER_LOST);
  EXPECT_EQ(Row("j").failed_attempts, 1);
}

TEST_F(VerdictTest, TheOrderOfTheTwoDoesNotMatter) {
  Beat("a", {LostPeer(0, 1)});
  EXPECT_EQ(State("j"), Job::RECOVERING);
  Disconnect("b");
  EXPECT_EQ(State("j"), Job::QUEUED);
  EXPECT_EQ(Row("j").failure_class, ham::v1::WORKER_LOST);
}

TEST_F(VerdictTest, TheSlotOfADeadRankStaysTakenUntilItsWorkerSaysSo) {
  Disconnect("b");
  Beat("a", {LostPeer(0, 1)});
  Beat("b", {Rank("j", 1, 1, ObservedRank::RUNNING)});
  Beat("a", {});
  EXPECT_EQ(State("j"), Job::QUEUED);
  Beat("b", {});
  EXPECT_EQ(State("j"), Job::STARTING);
}

TEST_F(VerdictTest, TheWordOfTheRankWhereItBeganCounts) {
  Beat("a", {LostPeer(0, 1)});
  EXPECT_EQ(Row("j").failure_class, ham::v1::INFRASTRUCTURE);
  ObservedRank killed = Exited("j", 1, 1, false);
  killed.mutable_exit()->set_signal(SIGKILL);
  killed.mutable_exit()->set_message("ended by signal 9");
  Beat("b", {killed});
  EXPECT_EQ(Row("j").attempt, 2);
  EXPECT_EQ(Row("j").failure_class, ham::v1::TRAINER_CRASH);
  EXPECT_EQ(Row("j").failed_attempts, 1);
  EXPECT_THAT(log_["j"], Contains("RECOVERING>RECOVERING TRAINER_CRASH"));
}

TEST_F(VerdictTest, ARankThatWasToldToStopIsNotWhereItBegan) {
  Beat("a", {LostPeer(0, 1)});
  Beat("b", {});
  EXPECT_EQ(Row("j").attempt, 2);
  EXPECT_EQ(Row("j").failure_class, ham::v1::INFRASTRUCTURE);
}

TEST_F(VerdictTest, ARankThatWaitedInVainIsNotWhereItBegan) {
  ++a_.begun;
  BeatBoth();
  ObservedRank gave_up = Exited("j", 1, 0, false, ham::v1::HANG);
  gave_up.mutable_exit()->set_message("nothing came for 2m");
  Beat("a", {gave_up});
  EXPECT_EQ(State("j"), Job::RECOVERING);
  EXPECT_EQ(Row("j").state_message, "Rank 0 on a: nothing came for 2m; rank 1 on b has not come there.");
  Beat("b", {LostPeer(1, 0)});  // since rank 0 is gone
  EXPECT_EQ(Row("j").failure_class, ham::v1::HANG);
  EXPECT_EQ(Row("j").attempt, 2);
}

TEST_F(VerdictTest, AWorkerThatHasNotComeBackYetIsNotGone) {
  Restart();
  Register("a", 1, "i1", {LostPeer(0, 1)});
  EXPECT_EQ(State("j"), Job::RECOVERING) << "its rank may have more to say";
  Register("b", 1, "i1", {Exited("j", 1, 1, false, ham::v1::USER)});
  EXPECT_EQ(Row("j").failure_class, ham::v1::USER);
  EXPECT_EQ(State("j"), Job::FAILED);
}

TEST_F(VerdictTest, ACheckpointOfAnAttemptThatIsOverLeavesTheCountAtZero) {
  Beat("a", {LostPeer(0, 1)});
  Must(CheckpointCommitted{core_->FindWorker("id-b")->session, "j", CheckpointOf(1, 10)});
  EXPECT_EQ(Row("j").failed_attempts, 0);
  Beat("b", {Exited("j", 1, 1, false, ham::v1::PREEMPTED)});
  EXPECT_EQ(Row("j").failed_attempts, 0);
}

TEST_F(VerdictTest, ARankThatDoesNotEndIsGivenUpAndKeepsItsSlot) {
  Beat("a", {Exited("j", 1, 0, false)});
  Beat("a", {});
  const auto beats = [&] {
    Beat("a", {});
    Beat("b", {Rank("j", 1, 1, ObservedRank::RUNNING)});
  };
  Pass(absl::Seconds(119), beats);
  EXPECT_EQ(State("j"), Job::RECOVERING);
  Pass(absl::Seconds(2), beats);
  EXPECT_EQ(State("j"), Job::QUEUED);
  Register("c", 1);
  EXPECT_EQ(State("j"), Job::STARTING) << "on a and c";
  EXPECT_THAT(DesiredOf("b"), IsEmpty());
}

TEST_F(VerdictTest, SoIsOneOfACancelledJobAfterARestart) {
  Must(CancelJob{"j", "admin"});
  Beat("a", {});
  Restart();
  Register("a", 1);
  Register("b", 1, "i1", {Rank("j", 1, 1, ObservedRank::RUNNING)});
  Pass(absl::Seconds(121), [&] {
    Beat("a", {});
    Beat("b", {Rank("j", 1, 1, ObservedRank::RUNNING)});
  });
  EXPECT_EQ(State("j"), Job::CANCELLED);
}

TEST_F(VerdictTest, AWorkerThatWasToldToStopCostsNoAttempt) {
  Beat("a", {LostPeer(0, 1)});
  EXPECT_EQ(Row("j").failed_attempts, 1);
  Beat("b", {Exited("j", 1, 1, false, ham::v1::PREEMPTED)});
  EXPECT_EQ(Row("j").failure_class, ham::v1::PREEMPTED);
  EXPECT_EQ(Row("j").failed_attempts, 0);
}

// ---- workers that fail again and again -----------------------------------------------------------------------

class ExclusionTest : public CoreTest {
 protected:
  void SetUp() override {
    Register("a", 1);
    for (const char* worker : {"b", "c"}) Register(worker, 0);  // a third of the workers may be excluded
  }
  // Jobs of one rank on worker a that crash, one after the other.
  void Crash(const std::string& job) {
    if (core_->FindJob(job) == nullptr) Submit(job, 1, 100);
    ASSERT_EQ(State(job), Job::STARTING);
    Beat("a", {Exited(job, Row(job).attempt, 0, false)});
    Beat("a", {});
  }
  void Cancel(const std::string& job) {
    Must(CancelJob{job, "admin"});
    Beat("a", {});
  }
  bool Excluded() const { return core_->Workers().at(0).state == ham::v1::Worker::EXCLUDED; }
};

TEST_F(ExclusionTest, AWorkerOnWhichSeveralJobsFailedRests) {
  for (const char* job : {"j1", "j2", "j3"}) {
    EXPECT_FALSE(Excluded());
    Crash(job);
    if (job != std::string("j3")) Cancel(job);
  }
  EXPECT_TRUE(Excluded());
  EXPECT_EQ(State("j3"), Job::QUEUED);
  EXPECT_THAT(log_["j3"], Contains("STARTING>STARTING WORKER_EXCLUDED"));
  Pass(absl::Minutes(9), [&] { Beat("a", {}); });
  EXPECT_EQ(State("j3"), Job::QUEUED);
  Pass(absl::Minutes(2), [&] { Beat("a", {}); });
  EXPECT_EQ(State("j3"), Job::STARTING) << "it has a way back";
  EXPECT_FALSE(Excluded());
}

TEST_F(ExclusionTest, ARestartBeginsTheRestAnewUnlessItWasOver) {
  Crash("j1"), Cancel("j1"), Crash("j2"), Cancel("j2"), Crash("j3");
  const auto restart = [this] {
    Restart();
    Register("a", 1);
    for (const char* worker : {"b", "c"}) Register(worker, 0);
  };
  const auto beat = [this] {
    for (const char* worker : {"a", "b", "c"}) Beat(worker, {});
  };
  Pass(absl::Minutes(8), beat);
  restart();
  Pass(absl::Minutes(9), beat);
  EXPECT_TRUE(Excluded());
  EXPECT_EQ(State("j3"), Job::QUEUED);
  Cancel("j3");
  Pass(absl::Minutes(2), beat);
  EXPECT_FALSE(Excluded());
  restart();
  EXPECT_FALSE(Excluded());
}

TEST_F(ExclusionTest, AWorkerThatStartsAnewIsNotExcludedAfterARestart) {
  Crash("j1"), Cancel("j1"), Crash("j2"), Cancel("j2"), Crash("j3"), Cancel("j3");
  ASSERT_TRUE(Excluded());
  Register("a", 1, "i2");
  Restart();
  Register("a", 1, "i2");
  EXPECT_FALSE(Excluded());
}

TEST_F(ExclusionTest, RanksThatHangCountToo) {
  for (const char* job : {"j1", "j2", "j3"}) {
    Submit(job, 1, 100);
    Trainer trainer;
    Pass(absl::Seconds(62), [&] {
      ObservedRank observed = trainer.Observed();
      observed.set_job(job);
      for (const char* worker : {"b", "c"}) Beat(worker, {});
      if (State(job) != Job::RECOVERING) Beat("a", {observed});
    });
    ASSERT_EQ(Row(job).failure_class, ham::v1::HANG);
    Beat("a", {});
    Cancel(job);
  }
  EXPECT_TRUE(Excluded());
}

TEST_F(ExclusionTest, AJobThatFailsOnSeveralWorkersExcludesNone) {
  Crash("j2"), Crash("j2");
  Submit("other");
  ASSERT_EQ(State("other"), Job::STARTING) << "on a, while j2 waits";
  Register("b", 1);
  Pass(absl::Seconds(7), [&] {
    Beat("a", {Rank("other", 1, 0, ObservedRank::RUNNING)});
    Beat("b", {});
  });
  ASSERT_EQ(DesiredOf("b").size(), 1u) << Row("j2").state_message;
  Beat("b", {Exited("j2", Row("j2").attempt, 0, false)});
  Beat("b", {});
  Must(CancelJob{"j2", "admin"});
  Register("b", 0);
  Cancel("other");
  Crash("j3"), Cancel("j3"), Crash("j4"), Cancel("j4");
  EXPECT_FALSE(Excluded()) << "j2 is no longer held against it";
  Crash("j5");
  EXPECT_TRUE(Excluded());
}

TEST_F(ExclusionTest, OfTwoWorkersNoneIsExcluded) {
  Disconnect("c");
  Crash("j1"), Cancel("j1"), Crash("j2"), Cancel("j2"), Crash("j3");
  EXPECT_FALSE(Excluded());
}

TEST_F(ExclusionTest, AJobThatWaitsIsToldWhoIsExcluded) {
  Crash("j1"), Cancel("j1"), Crash("j2"), Cancel("j2"), Crash("j3");
  EXPECT_EQ(Row("j3").state_reason, "NO_WORKER_FITS");
  EXPECT_THAT(Row("j3").state_message, HasSubstr("Excluded for a while, since ranks of several jobs failed there: a."));
}

TEST_F(ExclusionTest, AWorkerThatIsStartedAnewIsForgiven) {
  Crash("j1"), Cancel("j1"), Crash("j2"), Cancel("j2"), Crash("j3");
  ASSERT_TRUE(Excluded());
  Register("a", 1, "i2");
  EXPECT_FALSE(Excluded());
  EXPECT_EQ(State("j3"), Job::STARTING);
}

TEST_F(ExclusionTest, AJobThatFailsEverywhereExcludesNobody) {
  Submit("j", 1, 100);
  for (int i = 0; i < 10; ++i) {
    Pass(absl::Minutes(6), [&] { Beat("a", {}); });
    Crash("j");
  }
  EXPECT_FALSE(Excluded());
}

TEST_F(ExclusionTest, WhatEndedWellBetweenAbsolves) {
  Crash("j1"), Cancel("j1"), Crash("j2"), Cancel("j2");
  Submit("good");
  Beat("a", {Rank("good", 1, 0, ObservedRank::RUNNING)});
  Beat("a", {Exited("good", 1, 0, true)});
  Beat("a", {});
  Crash("j3");
  EXPECT_FALSE(Excluded());
}

TEST_F(ExclusionTest, UsersAndPeersFaultsAreNotTheWorkers) {
  for (const char* job : {"j1", "j2", "j3", "j4"}) {
    Submit(job);
    ObservedRank exit = Exited(job, 1, 0, false, job[1] % 2 == 0 ? ham::v1::USER : ham::v1::INFRASTRUCTURE);
    if (job[1] % 2 != 0) exit.mutable_exit()->set_lost_rank(1);
    Beat("a", {exit});
    Beat("a", {});
    if (State(job) != Job::FAILED) Cancel(job);
  }
  EXPECT_FALSE(Excluded());
}

}  // namespace
}  // namespace ham::server
