// Failed attempts, checkpoints, restarts of the coordinator, batches that are undone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/server/core_fixture.h"

namespace ham::server {
namespace {

using ham::v1::Job;
using ham::v1::ObservedRank;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(CoreTest, StopsThePeersOfACrashedRankThenTriesAgain) {
  RunPair();
  Beat("a", {Exited("j", 1, 0, false)});
  EXPECT_EQ(State("j"), Job::RECOVERING);
  EXPECT_EQ(Row("j").failure_class, ham::v1::TRAINER_CRASH);
  EXPECT_THAT(Row("j").state_message, HasSubstr("Rank 0 on a: it broke."));
  EXPECT_THAT(DesiredOf("a"), IsEmpty());
  EXPECT_THAT(DesiredOf("b"), IsEmpty());
  Beat("b", {Rank("j", 1, 1, ObservedRank::RUNNING)});
  EXPECT_EQ(State("j"), Job::RECOVERING);
  Beat("b", {});
  EXPECT_EQ(State("j"), Job::STARTING);  // the first retry is immediate
  EXPECT_EQ(Row("j").attempt, 2);
  EXPECT_EQ(Row("j").failed_attempts, 1);
}

TEST_F(CoreTest, NeverRetriesUserErrors) {
  RunPair();
  Beat("a", {Exited("j", 1, 0, false, ham::v1::USER)});
  EXPECT_EQ(State("j"), Job::RECOVERING);
  Beat("b", {Exited("j", 1, 1, false)});
  EXPECT_EQ(State("j"), Job::FAILED);
  EXPECT_EQ(Row("j").failure_class, ham::v1::USER);
  EXPECT_EQ(Row("j").state_reason, "USER");
  EXPECT_THAT(Row("j").state_message, HasSubstr("it broke."));
}

TEST_F(CoreTest, NeverRetriesUserErrorsThatAPeerReportedFirst) {
  RunPair();
  Beat("b", {Exited("j", 1, 1, false, ham::v1::INFRASTRUCTURE)});  // its collective broke
  ASSERT_EQ(State("j"), Job::RECOVERING);
  Beat("a", {Exited("j", 1, 0, false, ham::v1::USER)});
  EXPECT_EQ(State("j"), Job::FAILED);
  EXPECT_EQ(Row("j").failure_class, ham::v1::USER);
  EXPECT_EQ(Row("j").state_reason, "USER");
  EXPECT_THAT(Row("j").state_message, HasSubstr("Rank 0 on a: it broke."));
}

TEST_F(CoreTest, DoesNotCountPreemptionsAgainstMaxAttempts) {
  RunSingle(1);
  Beat("a", {Exited("j", 1, 0, false, ham::v1::PREEMPTED)});
  EXPECT_EQ(State("j"), Job::STARTING);
  EXPECT_EQ(Row("j").failed_attempts, 0);
  EXPECT_EQ(Row("j").failure_class, ham::v1::PREEMPTED);
  Beat("a", {Exited("j", 2, 0, false, ham::v1::PREEMPTED)});
  EXPECT_EQ(Row("j").state_reason, "BACKOFF");
  Pass(absl::Seconds(8), [&] { Beat("a", {}); });
  Beat("a", {Exited("j", 3, 0, false)});
  EXPECT_EQ(State("j"), Job::FAILED);
}

TEST_F(CoreTest, KeepsARankThatSucceededWhateverBecomesOfItsWorker) {
  RunPair();
  Beat("a", {Exited("j", 1, 0, true)});
  Beat("a", {});  // forgotten there
  EXPECT_EQ(State("j"), Job::RUNNING);
  Register("a", 1, "i2");
  EXPECT_EQ(State("j"), Job::RUNNING);
  EXPECT_THAT(DesiredOf("a"), IsEmpty());
  EXPECT_TRUE(core_->CheckFence(3, "j", 1).ok());  // its last records may still come
  Restart();
  Register("a", 1, "i2");
  EXPECT_EQ(State("j"), Job::RUNNING);
  Register("b", 1, "i1", {Rank("j", 1, 1, ObservedRank::RUNNING)});
  Beat("b", {Exited("j", 1, 1, true)});
  EXPECT_EQ(State("j"), Job::SUCCEEDED);
  EXPECT_EQ(Row("j").attempt, 1);
}

TEST_F(CoreTest, FailsASingleRankDirectly) {
  RunSingle();
  Beat("a", {Exited("j", 1, 0, false, ham::v1::USER)});
  EXPECT_EQ(log_["j"].back(), "RUNNING>FAILED USER");
}

TEST_F(CoreTest, TakesAnExitWithoutClassForACrash) {
  RunSingle();
  ObservedRank exited = Exited("j", 1, 0, false, ham::v1::FAILURE_CLASS_UNSPECIFIED);
  exited.mutable_exit()->clear_message();
  exited.mutable_exit()->set_signal(9);
  Beat("a", {exited});
  EXPECT_EQ(Row("j").failure_class, ham::v1::TRAINER_CRASH);
  EXPECT_THAT(log_["j"][3], "RUNNING>RECOVERING TRAINER_CRASH");
}

TEST_F(CoreTest, GivesUpAfterMaxAttempts) {
  RunSingle(2);
  Beat("a", {Exited("j", 1, 0, false)});
  ASSERT_EQ(State("j"), Job::STARTING);
  Beat("a", {Exited("j", 2, 0, false)});
  EXPECT_EQ(State("j"), Job::FAILED);
  EXPECT_EQ(Row("j").state_reason, "ATTEMPTS_EXHAUSTED");
  EXPECT_THAT(Row("j").state_message, HasSubstr("2 attempts failed"));
}

TEST_F(CoreTest, WaitsFromTheSecondFailureOn) {
  RunSingle(10);
  Beat("a", {Exited("j", 1, 0, false)});
  ASSERT_EQ(State("j"), Job::STARTING);
  absl::Duration expected = absl::Seconds(5);
  for (int attempt = 2; attempt < 10; ++attempt) {
    Must(BeatOf("a", {Exited("j", attempt, 0, false)}), 1.0);
    ASSERT_EQ(State("j"), Job::QUEUED);
    EXPECT_EQ(Row("j").state_reason, "BACKOFF");
    const absl::Duration wait = expected * 1.2;
    Pass(wait - absl::Seconds(1), [&] { Beat("a", {}); });
    ASSERT_EQ(State("j"), Job::QUEUED);
    Pass(absl::Seconds(2), [&] { Beat("a", {}); });
    ASSERT_EQ(State("j"), Job::STARTING);
    ASSERT_EQ(Row("j").attempt, attempt + 1);
    expected = std::min(expected * 2, absl::Minutes(5));
  }
}

TEST_F(CoreTest, ForgetsFailuresOutsideTheWindow) {
  RunSingle();
  Beat("a", {Exited("j", 1, 0, false)});
  Pass(absl::Minutes(11), [&] { Beat("a", {Rank("j", 2, 0, ObservedRank::RUNNING)}); });
  Beat("a", {Exited("j", 2, 0, false)});
  EXPECT_EQ(State("j"), Job::STARTING);
}

TEST_F(CoreTest, StartsTheNextAttemptFromTheNewestCheckpoint) {
  RunSingle();
  Must(CheckpointCommitted{1, "j", CheckpointOf(1, 10)});
  EXPECT_EQ(log_["j"].back(), "RUNNING>RUNNING CHECKPOINT_COMMITTED");
  EXPECT_FALSE(core_->Desired("id-a").at(0).checkpoint.has_value());  // this attempt started from scratch
  Beat("a", {Exited("j", 1, 0, false)});
  ASSERT_EQ(Row("j").attempt, 2);
  EXPECT_EQ(core_->Desired("id-a").at(0).checkpoint->iteration(), 10);
}

ham::v1::Checkpoint NamedCheckpoint(int attempt, int64_t iteration) {
  ham::v1::Checkpoint checkpoint = CheckpointOf(attempt, iteration);
  checkpoint.set_manifest_digest(absl::StrCat("m", iteration));
  return checkpoint;
}

TEST_F(CoreTest, KeepsAsManyOlderCheckpointsAsItIsTold) {
  RunSingle();
  for (const int64_t iteration : {10, 20, 30}) Must(CheckpointCommitted{1, "j", NamedCheckpoint(1, iteration)});
  EXPECT_EQ(Row("j").checkpoint->iteration(), 30);
  ASSERT_EQ(Row("j").older_checkpoints.size(), 1u);
  EXPECT_EQ(Row("j").older_checkpoints[0].iteration(), 20);
  Must(CheckpointCommitted{1, "j", NamedCheckpoint(1, 30)});  // sent again
  EXPECT_EQ(Row("j").older_checkpoints[0].iteration(), 20);
  options_.kept_checkpoints = 1;
  Restart();
  Must(CheckpointCommitted{1, "j", NamedCheckpoint(1, 40)});
  EXPECT_TRUE(Row("j").older_checkpoints.empty());
}

TEST_F(CoreTest, StartsAgainAtOnceFromTheCheckpointBeforeADamagedOne) {
  RunPair();
  for (const int64_t iteration : {10, 20}) Must(CheckpointCommitted{1, "j", NamedCheckpoint(1, iteration)});
  Beat("a", {Exited("j", 1, 0, false)});
  Beat("b", {Exited("j", 1, 1, false)});
  Beat("a", {});
  ASSERT_EQ(core_->Desired("id-a").at(0).checkpoint->iteration(), 20);
  Must(CheckpointDamaged{"j", "m20", "artifact x is missing"});
  EXPECT_EQ(State("j"), Job::RECOVERING);  // the attempt can never start
  EXPECT_THAT(Row("j").state_message, HasSubstr("iteration 20 is damaged: artifact x is missing"));
  EXPECT_THAT(Row("j").state_message, HasSubstr("from that of iteration 10"));
  EXPECT_EQ(Row("j").failed_attempts, 1);                        // this one does not count
  Must(CheckpointDamaged{"j", "m20", "artifact x is missing"});  // its other rank found out too
  EXPECT_EQ(Row("j").checkpoint->iteration(), 10);
  Beat("a", {Exited("j", 2, 0, false, ham::v1::INFRASTRUCTURE)});
  Beat("b", {Exited("j", 2, 1, false, ham::v1::INFRASTRUCTURE)});
  EXPECT_EQ(State("j"), Job::STARTING);
  EXPECT_EQ(Row("j").attempt, 3);
  EXPECT_EQ(core_->Desired("id-a").at(0).checkpoint->iteration(), 10);
  EXPECT_EQ(log_["j"].at(log_["j"].size() - 2), "STARTING>RECOVERING CHECKPOINT_DAMAGED");
  Must(CheckpointDamaged{"j", "m10", "artifact y is missing"});
  Beat("a", {});
  Beat("b", {});
  EXPECT_EQ(State("j"), Job::STARTING);
  EXPECT_FALSE(core_->Desired("id-a").at(0).checkpoint.has_value());
}

TEST_F(CoreTest, ADamagedCheckpointDoesNotDisturbWhatRuns) {
  RunSingle();
  for (const int64_t iteration : {10, 20}) Must(CheckpointCommitted{1, "j", NamedCheckpoint(1, iteration)});
  Must(CheckpointDamaged{"j", "m10", "artifact x is missing"});
  EXPECT_TRUE(Row("j").older_checkpoints.empty());
  EXPECT_TRUE(stored_jobs_.at("j").older_checkpoints.empty());
  Must(CheckpointDamaged{"j", "m20", "artifact x is missing"});
  EXPECT_EQ(State("j"), Job::RUNNING);
  EXPECT_FALSE(stored_jobs_.at("j").checkpoint.has_value());
  EXPECT_EQ(log_["j"].back(), "RUNNING>RUNNING CHECKPOINT_DAMAGED");
  Must(CheckpointCommitted{1, "j", NamedCheckpoint(1, 15)});  // newer than what is left
  EXPECT_EQ(Row("j").checkpoint->iteration(), 15);
  Must(CancelJob{"j", "admin"});
  Beat("a", {});
  ASSERT_EQ(State("j"), Job::CANCELLED);
  const size_t events = log_["j"].size();
  Must(CheckpointDamaged{"j", "m15", "artifact x is missing"});
  EXPECT_EQ(log_["j"].size(), events) << "it has ended";
  EXPECT_EQ(Apply(CheckpointDamaged{"k", "m", ""}).code(), absl::StatusCode::kNotFound);
}

TEST_F(CoreTest, ResetsTheCountOfFailedAttemptsWhenACheckpointMovesOn) {
  RunSingle(2);
  Beat("a", {Exited("j", 1, 0, false)});
  Must(CheckpointCommitted{1, "j", CheckpointOf(2, 10)});
  EXPECT_EQ(Row("j").failed_attempts, 0);
  Beat("a", {Exited("j", 2, 0, false)});
  EXPECT_EQ(State("j"), Job::STARTING);
  Must(CheckpointCommitted{1, "j", CheckpointOf(3, 10)});  // no further than before
  EXPECT_EQ(Row("j").failed_attempts, 1);
  EXPECT_EQ(Row("j").checkpoint->attempt(), 2);
}

TEST_F(CoreTest, RefusesACheckpointThatIsNotNewer) {
  RunSingle();
  Must(CheckpointCommitted{1, "j", CheckpointOf(1, 10)});
  Must(CheckpointCommitted{1, "j", CheckpointOf(1, 10)});  // sent again
  ham::v1::Checkpoint other = CheckpointOf(1, 10);
  other.set_manifest_digest("other");
  EXPECT_EQ(Apply(CheckpointCommitted{1, "j", other}).code(), absl::StatusCode::kFailedPrecondition);
  other.set_iteration(9);
  EXPECT_EQ(Apply(CheckpointCommitted{1, "j", other}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(core_->pending().durable_empty());
  EXPECT_EQ(Row("j").checkpoint->manifest_digest(), "m");
}

TEST_F(CoreTest, GoesOnWithRunningJobsAfterARestart) {
  RunPair();
  Restart();
  EXPECT_EQ(State("j"), Job::RUNNING);
  Register("a", 1, "i1", {Rank("j", 1, 0, ObservedRank::RUNNING)});
  EXPECT_EQ(core_->FindWorker("id-a")->session, 1);
  Register("b", 1, "i1", {Rank("j", 1, 1, ObservedRank::RUNNING)});
  Beat("a", {Exited("j", 1, 0, true)});
  Beat("b", {Exited("j", 1, 1, true)});
  EXPECT_EQ(State("j"), Job::SUCCEEDED);
  EXPECT_EQ(Row("j").attempt, 1);
}

TEST_F(CoreTest, GivesWorkersFourLeasesAfterARestart) {
  RunSingle();
  Restart();
  Pass(absl::Seconds(59));
  EXPECT_EQ(State("j"), Job::RUNNING);
  Pass(absl::Seconds(2));
  EXPECT_EQ(State("j"), Job::QUEUED);
  EXPECT_EQ(Row("j").failure_class, ham::v1::WORKER_LOST);
}

TEST_F(CoreTest, WritesNoQueueAnewUntilTheWorkersAreBackAfterARestart) {
  Register("a", 1);
  Register("b", 1);
  Submit("runs", 2);
  Submit("first", 2);
  Submit("second", 2);
  const auto reason = [this](const std::string& name) { return core_->FindJob(name)->state_reason; };
  Restart();
  EXPECT_EQ(reason("first"), "WAITING_FOR_SLOTS");
  EXPECT_EQ(reason("second"), "BEHIND_EARLIER_JOB");
  Submit("third");  // of which nothing is known yet
  EXPECT_EQ(reason("third"), "NO_WORKER_FITS");
  Register("a", 1, "i1", {Rank("runs", 1, 0, ham::v1::ObservedRank::RUNNING)});
  EXPECT_EQ(reason("first"), "WAITING_FOR_SLOTS");
  Register("b", 1, "i1", {Rank("runs", 1, 1, ham::v1::ObservedRank::RUNNING)});
  EXPECT_EQ(reason("first"), "WAITING_FOR_SLOTS");
  EXPECT_EQ(reason("second"), "BEHIND_EARLIER_JOB");
  EXPECT_EQ(reason("third"), "BEHIND_EARLIER_JOB");
  Restart();
  Advance(absl::Minutes(1));  // four leases
  Must(TimerFired{});
  EXPECT_EQ(reason("first"), "NO_WORKER_FITS");
  EXPECT_EQ(reason("second"), "NO_WORKER_FITS");
}

TEST_F(CoreTest, StartsAGangAnewFreeOfChargeWhenARestartMetItComingUp) {
  Register("a", 1);
  Submit("j", 1, 1);
  Restart();
  EXPECT_EQ(State("j"), Job::RECOVERING);
  EXPECT_EQ(log_["j"].back(), "STARTING>RECOVERING COORDINATOR_RESTARTED");
  EXPECT_EQ(core_->Desired("id-a").size(), 0u);
  Register("a", 1, "i1", {Rank("j", 1, 0, ObservedRank::STARTING)});
  EXPECT_EQ(State("j"), Job::RECOVERING);
  Beat("a", {});
  EXPECT_EQ(State("j"), Job::STARTING);
  EXPECT_EQ(Row("j").attempt, 2);
  EXPECT_EQ(Row("j").failed_attempts, 0);
}

TEST_F(CoreTest, LosesARankThatIsNotThereAfterARestart) {
  RunSingle();
  Restart();
  Register("a", 1, "i1", {});
  EXPECT_EQ(Row("j").attempt, 2);
}

TEST_F(CoreTest, RearmsBackoffInFullAfterARestart) {
  RunSingle();
  Beat("a", {Exited("j", 1, 0, false)});
  Beat("a", {Exited("j", 2, 0, false)});
  ASSERT_EQ(Row("j").state_reason, "BACKOFF");
  Pass(absl::Seconds(4));
  Restart();
  Register("a", 1);
  Pass(absl::Seconds(4));
  EXPECT_EQ(State("j"), Job::QUEUED);
  Pass(absl::Seconds(2));
  EXPECT_EQ(State("j"), Job::STARTING);
}

TEST_F(CoreTest, UsesNoSlotOfAWorkerWithARankThatNobodyRemembers) {
  RunSingle();
  Disconnect("a");
  Pass(absl::Seconds(16));
  ASSERT_EQ(State("j"), Job::QUEUED);
  Restart();  // forgets which slot the lost rank was on
  Register("a", 4, "i1", {Rank("j", 1, 0, ObservedRank::RUNNING)});
  EXPECT_EQ(State("j"), Job::QUEUED);
  Beat("a", {});
  EXPECT_EQ(State("j"), Job::STARTING);
}

TEST_F(CoreTest, FinishesACancelOverARestart) {
  RunPair();
  Must(CancelJob{"j", "admin"});
  Beat("a", {});
  Restart();
  EXPECT_EQ(State("j"), Job::CANCELLING);
  Register("b", 1, "i1", {});
  EXPECT_EQ(State("j"), Job::CANCELLED);
}

TEST_F(CoreTest, NeverReusesASessionAfterARestart) {
  Register("a", 1);
  Register("b", 1);
  Restart();
  Register("c", 1);
  EXPECT_EQ(core_->FindWorker("id-c")->session, 3);
}

// All that can be seen from outside, as text.
std::string Describe(const Coordinator& core) {
  std::string text = absl::StrCat("timer ", absl::FormatDuration(core.NextTimer()), "\n");
  for (const auto& [name, row] : core.jobs()) {
    absl::StrAppend(&text, name, " ", row.state, " ", row.state_reason, " ", row.attempt, " ", row.failed_attempts,
                    " gang ", row.gang.size(), " checkpoint ", row.checkpoint ? row.checkpoint->iteration() : -1, "\n");
  }
  for (const WorkerView& worker : core.Workers()) {
    absl::StrAppend(&text, worker.row.name, " ", worker.row.worker_id, " ", worker.row.session, " ",
                    worker.row.incarnation, " ", static_cast<int>(worker.state), " ",
                    absl::FormatTime(worker.last_beat_time), " ", core.DesiredVersion(worker.row.worker_id), "\n");
    for (const ham::v1::Slot& slot : worker.slots) absl::StrAppend(&text, "  ", slot.index(), " ", slot.job(), "\n");
    for (const DesiredRank& rank : core.Desired(worker.row.worker_id)) {
      absl::StrAppend(&text, "  ", rank.job, " ", rank.attempt, " ", rank.rank, " ", rank.slot, "\n");
    }
  }
  return text;
}

TEST_F(CoreTest, RollsBackWhateverABatchChanged) {
  RunPair();
  Register("c", 2);
  Submit("queued", 3);
  const std::vector<std::vector<Event>> batches = {
      {SubmitJob{NewJob("new", 2)}, CancelJob{"j", "admin"}},
      {BeatOf("a", {Exited("j", 1, 0, false)}), BeatOf("b", {})},
      {BeatOf("a", {Exited("j", 1, 0, true)}), BeatOf("b", {Exited("j", 1, 1, true)})},
      {Registration("a", 1, "i2"), Registration("d", 3)},
      {WorkerDisconnected{"id-c", 3}, CancelJob{"queued", "admin"}},
      {CheckpointCommitted{1, "j", CheckpointOf(1, 5)}},
      {TimerFired{}},
  };
  Advance(absl::Seconds(20));
  const std::string before = Describe(*core_);
  for (const std::vector<Event>& batch : batches) {
    for (const Event& event : batch) EXPECT_TRUE(Apply(event).ok());
    EXPECT_NE(Describe(*core_), before);
    core_->RollbackBatch();
    EXPECT_EQ(Describe(*core_), before);
    EXPECT_THAT(core_->CheckInvariants(), IsEmpty());
    EXPECT_TRUE(core_->pending().durable_empty());
    EXPECT_THAT(core_->pending().desired_changed, IsEmpty());
  }
  Beat("a", {Exited("j", 1, 0, true)});  // and life goes on
  Beat("b", {Exited("j", 1, 1, true)});
  EXPECT_EQ(State("j"), Job::SUCCEEDED);
  EXPECT_EQ(State("queued"), Job::STARTING);
}

TEST_F(CoreTest, RollsBackANameThatMoved) {
  Register("a", 1);
  Disconnect("a");
  WorkerRegistered other = Registration("a", 1);
  other.registration.set_worker_id("id-other");
  const std::string before = Describe(*core_);
  ASSERT_TRUE(Apply(other).ok());
  core_->RollbackBatch();
  EXPECT_EQ(Describe(*core_), before);
  EXPECT_THAT(core_->CheckInvariants(), IsEmpty());
}

TEST_F(CoreTest, RollsBackWhatARestartDid) {
  Register("a", 1);
  Submit("j");
  core_ = std::make_unique<Coordinator>(options_, &policy_);
  core_->Restore({stored_jobs_.at("j")}, {stored_workers_.at("id-a")}, now());
  EXPECT_LE(core_->NextTimer(), now().steady);
  ASSERT_TRUE(Apply(TimerFired{}).ok());
  core_->RollbackBatch();
  EXPECT_EQ(State("j"), Job::STARTING);
  Must(TimerFired{});
  EXPECT_EQ(State("j"), Job::RECOVERING);
}

}  // namespace
}  // namespace ham::server
