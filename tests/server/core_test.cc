// The coordinator's state machine, one behaviour a test. Time and jitter are arguments, so nothing waits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/job_state.h"
#include "server/coordinator.h"
#include "server/scheduling_policy.h"

namespace ham::server {
namespace {

using ham::v1::Job;
using ham::v1::ObservedRank;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Counts its calls: planning is the costly part.
class CountingPolicy : public SchedulingPolicy {
 public:
  Schedule Plan(const std::vector<QueuedJob>& queue, const std::vector<FreeSlot>& free,
                const std::vector<FreeSlot>& all) const override {
    ++calls;
    return gangs.Plan(queue, free, all);
  }
  mutable int calls = 0;
  SubmitOrderGangs gangs;
};

ObservedRank Rank(const std::string& job, int attempt, int rank, ObservedRank::State state,
                  int64_t collective_sequence = 0) {
  ObservedRank observed;
  observed.set_job(job);
  observed.set_attempt(attempt);
  observed.set_rank(rank);
  observed.set_state(state);
  observed.mutable_progress()->set_collective_sequence(collective_sequence);
  return observed;
}

ObservedRank Exited(const std::string& job, int attempt, int rank, bool success,
                    ham::v1::FailureClass failure_class = ham::v1::TRAINER_CRASH) {
  ObservedRank observed = Rank(job, attempt, rank, ObservedRank::EXITED);
  observed.mutable_exit()->set_success(success);
  if (!success) {
    observed.mutable_exit()->set_failure_class(failure_class);
    observed.mutable_exit()->set_message("it broke.");
  }
  return observed;
}

class CoreTest : public ::testing::Test {
 protected:
  void Advance(absl::Duration step) { steady_ += step; }
  Now now() const { return {steady_, absl::UnixEpoch() + steady_}; }

  absl::Status Apply(const Event& event, double jitter = 0) {
    const absl::Status status = core_->Apply(event, now(), jitter);
    EXPECT_THAT(core_->CheckInvariants(), IsEmpty());
    return status;
  }
  Effects Commit() {
    Effects effects = core_->CommitBatch();
    for (const auto& [name, row] : effects.jobs) stored_jobs_[name] = row;
    for (const auto& [id, row] : effects.workers) stored_workers_[id] = row;
    for (const EventRow& row : effects.events) {
      log_[row.job].push_back(absl::StrCat(Job::State_Name(row.event.from_state()), ">",
                                           Job::State_Name(row.event.to_state()), " ", row.event.reason()));
    }
    return effects;
  }
  void Must(const Event& event, double jitter = 0) {
    const absl::Status status = Apply(event, jitter);
    EXPECT_TRUE(status.ok()) << status;
    Commit();
  }

  static JobRow NewJob(const std::string& name, int world_size = 1, int max_attempts = 5) {
    JobRow row;
    row.name = name;
    row.creator = "admin";
    row.world_size = world_size;
    row.device = "cpu";
    row.data_set = "fashion-mnist";
    row.max_attempts = max_attempts;
    return row;
  }
  void Submit(const std::string& name, int world_size = 1, int max_attempts = 5) {
    Must(SubmitJob{NewJob(name, world_size, max_attempts)});
  }
  static WorkerRegistered Registration(const std::string& worker, int slots, const std::string& incarnation = "i1",
                                       const std::vector<ObservedRank>& observed = {}) {
    WorkerRegistered event;
    event.registration.set_worker_id("id-" + worker);
    event.registration.set_worker_name(worker);
    event.registration.set_incarnation(incarnation);
    event.registration.set_build_id("b1");
    for (int i = 0; i < slots; ++i) {
      ham::v1::Slot* slot = event.registration.add_slots();
      slot->set_index(i);
      slot->set_device("cpu");
    }
    ham::v1::DataSet* data_set = event.registration.add_data_sets();
    data_set->set_name("fashion-mnist");
    data_set->set_digest("d1");
    for (const ObservedRank& rank : observed) *event.registration.add_observed() = rank;
    return event;
  }
  void Register(const std::string& worker, int slots, const std::string& incarnation = "i1",
                const std::vector<ObservedRank>& observed = {}) {
    Must(Registration(worker, slots, incarnation, observed));
  }
  // A beat of a worker that has seen its newest assignments.
  WorkerBeat BeatOf(const std::string& worker, const std::vector<ObservedRank>& observed) {
    const std::string id = "id-" + worker;
    return {id, core_->FindWorker(id)->session, observed, core_->DesiredVersion(id)};
  }
  void Beat(const std::string& worker, const std::vector<ObservedRank>& observed) { Must(BeatOf(worker, observed)); }
  void Disconnect(const std::string& worker) {
    Must(WorkerDisconnected{"id-" + worker, core_->FindWorker("id-" + worker)->session});
  }
  void Restart() {
    core_ = std::make_unique<Coordinator>(options_, &policy_);
    std::vector<JobRow> jobs;
    std::vector<WorkerRow> workers;
    for (const auto& [name, row] : stored_jobs_) jobs.push_back(row);
    for (const auto& [id, row] : stored_workers_) workers.push_back(row);
    core_->Restore(jobs, workers, now());
    Must(TimerFired{});
  }
  // Lets time pass in steps of a second, firing timers; `beats` is called each second.
  template <typename F>
  void Pass(absl::Duration span, F beats) {
    for (const absl::Duration end = steady_ + span; steady_ < end;) {
      Advance(absl::Seconds(1));
      beats();
      if (core_->NextTimer() <= steady_) Must(TimerFired{});
    }
  }
  void Pass(absl::Duration span) {
    Pass(span, [] {});
  }

  Job::State State(const std::string& job) const { return core_->FindJob(job)->state; }
  const JobRow& Row(const std::string& job) const { return *core_->FindJob(job); }
  std::vector<std::string> DesiredOf(const std::string& worker) const {
    std::vector<std::string> ranks;
    for (const DesiredRank& rank : core_->Desired("id-" + worker)) {
      ranks.push_back(absl::StrCat(rank.job, "/", rank.attempt, "/", rank.rank, "@", rank.slot));
    }
    return ranks;
  }
  // A job of two ranks on workers a and b, one slot each, RUNNING.
  void RunPair() {
    Register("a", 1);
    Register("b", 1);
    Submit("j", 2);
    Beat("a", {Rank("j", 1, 0, ObservedRank::RUNNING)});
    Beat("b", {Rank("j", 1, 1, ObservedRank::RUNNING)});
    ASSERT_EQ(State("j"), Job::RUNNING);
  }
  void RunSingle(int max_attempts = 5) {
    Register("a", 1);
    Submit("j", 1, max_attempts);
    Beat("a", {Rank("j", 1, 0, ObservedRank::RUNNING)});
    ASSERT_EQ(State("j"), Job::RUNNING);
  }

  CoordinatorOptions options_;
  CountingPolicy policy_;
  absl::Duration steady_ = absl::Seconds(100);
  std::unique_ptr<Coordinator> core_ = std::make_unique<Coordinator>(options_, &policy_);
  std::map<std::string, JobRow> stored_jobs_;
  std::map<std::string, WorkerRow> stored_workers_;
  std::map<std::string, std::vector<std::string>> log_;
};

// ---- the table ---------------------------------------------------------------------------------------------

TEST(JobTransitions, AreExactlyThoseOfTheTable) {
  const std::map<Job::State, std::set<Job::State>> table = {
      {Job::QUEUED, {Job::STARTING, Job::CANCELLED, Job::FAILED}},
      {Job::STARTING, {Job::RUNNING, Job::RECOVERING, Job::QUEUED, Job::CANCELLING, Job::FAILED}},
      {Job::RUNNING, {Job::PAUSING, Job::PREEMPTING, Job::RECOVERING, Job::CANCELLING, Job::SUCCEEDED, Job::FAILED}},
      {Job::RECOVERING, {Job::STARTING, Job::QUEUED, Job::CANCELLING, Job::FAILED}},
      {Job::PAUSING, {Job::PAUSED, Job::RECOVERING, Job::CANCELLING, Job::SUCCEEDED, Job::FAILED}},
      {Job::PAUSED, {Job::QUEUED, Job::CANCELLED}},
      {Job::PREEMPTING, {Job::QUEUED, Job::CANCELLING, Job::SUCCEEDED, Job::FAILED}},
      {Job::CANCELLING, {Job::CANCELLED, Job::SUCCEEDED}},
  };
  for (int from = Job::State_MIN; from <= Job::State_MAX; ++from) {
    for (int to = Job::State_MIN; to <= Job::State_MAX; ++to) {
      const auto row = table.find(static_cast<Job::State>(from));
      const bool expected = row != table.end() && row->second.count(static_cast<Job::State>(to)) != 0;
      EXPECT_EQ(IsAllowedTransition(static_cast<Job::State>(from), static_cast<Job::State>(to)), expected)
          << Job::State_Name(static_cast<Job::State>(from)) << " to " << Job::State_Name(static_cast<Job::State>(to));
    }
  }
}

TEST(JobTransitions, KnowFinalStates) {
  for (int state = Job::State_MIN; state <= Job::State_MAX; ++state) {
    const bool final = state == Job::SUCCEEDED || state == Job::FAILED || state == Job::CANCELLED;
    EXPECT_EQ(IsFinal(static_cast<Job::State>(state)), final);
  }
}

// ---- a job's ordinary life ---------------------------------------------------------------------------------

TEST_F(CoreTest, QueuesAJobOnAnEmptyClusterAndSaysWhy) {
  Submit("j", 2);
  EXPECT_EQ(State("j"), Job::QUEUED);
  EXPECT_EQ(Row("j").state_reason, "NO_WORKER_FITS");
  EXPECT_THAT(log_["j"], ElementsAre("STATE_UNSPECIFIED>QUEUED SUBMITTED"));
}

TEST_F(CoreTest, RefusesATakenName) {
  Submit("j");
  EXPECT_EQ(Apply(SubmitJob{NewJob("j")}).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(core_->pending().durable_empty());
}

TEST_F(CoreTest, StartsAGangWhenSlotsSuffice) {
  Register("a", 1);
  Submit("j", 2);
  EXPECT_EQ(State("j"), Job::QUEUED);
  EXPECT_THAT(DesiredOf("a"), IsEmpty());
  ASSERT_TRUE(Apply(Registration("b", 1)).ok());
  const Effects effects = Commit();
  EXPECT_EQ(State("j"), Job::STARTING);
  EXPECT_EQ(Row("j").attempt, 1);
  EXPECT_THAT(DesiredOf("a"), ElementsAre("j/1/0@0"));
  EXPECT_THAT(DesiredOf("b"), ElementsAre("j/1/1@0"));
  EXPECT_THAT(effects.desired_changed, ElementsAre("id-a", "id-b"));
  EXPECT_EQ(effects.jobs.at("j").gang.size(), 2u);
  EXPECT_EQ(effects.events.back().event.actor(), "coordinator");
  EXPECT_EQ(effects.events.back().attempt, 1);
}

TEST_F(CoreTest, RunsWhenAllRanksRun) {
  Register("a", 2);
  Submit("j", 2);
  Beat("a", {Rank("j", 1, 0, ObservedRank::RUNNING), Rank("j", 1, 1, ObservedRank::STARTING)});
  EXPECT_EQ(State("j"), Job::STARTING);
  Advance(absl::Seconds(1));
  Beat("a", {Rank("j", 1, 0, ObservedRank::RUNNING), Rank("j", 1, 1, ObservedRank::RUNNING)});
  EXPECT_EQ(State("j"), Job::RUNNING);
  EXPECT_EQ(Row("j").start_time, now().wall);
}

TEST_F(CoreTest, SucceedsWhenAllRanksEndWithSuccess) {
  RunPair();
  Beat("a", {Exited("j", 1, 0, true)});
  EXPECT_EQ(State("j"), Job::RUNNING);
  EXPECT_THAT(DesiredOf("a"), ElementsAre("j/1/0@0"));  // the agent goes on reporting it
  ASSERT_TRUE(Apply(BeatOf("b", {Exited("j", 1, 1, true)})).ok());
  const Effects effects = Commit();
  EXPECT_EQ(State("j"), Job::SUCCEEDED);
  EXPECT_EQ(Row("j").end_time, now().wall);
  EXPECT_THAT(Row("j").gang, IsEmpty());
  EXPECT_THAT(effects.ended_attempts, ElementsAre(std::make_pair("j", 1)));
  EXPECT_THAT(effects.desired_changed, ElementsAre("id-a", "id-b"));
  EXPECT_THAT(log_["j"], ElementsAre("STATE_UNSPECIFIED>QUEUED SUBMITTED", "QUEUED>STARTING GANG_PLACED",
                                     "STARTING>RUNNING ALL_RANKS_RUNNING", "RUNNING>SUCCEEDED COMPLETED"));
}

TEST_F(CoreTest, WritesRunningAlsoForAGangThatWasNeverSeenRunning) {
  Register("a", 1);
  Submit("j");
  Beat("a", {Exited("j", 1, 0, true)});
  EXPECT_EQ(State("j"), Job::SUCCEEDED);
  EXPECT_THAT(log_["j"], ElementsAre("STATE_UNSPECIFIED>QUEUED SUBMITTED", "QUEUED>STARTING GANG_PLACED",
                                     "STARTING>RUNNING ALL_RANKS_RUNNING", "RUNNING>SUCCEEDED COMPLETED"));
}

TEST_F(CoreTest, GivesSlotsOfAFinishedJobToTheNext) {
  RunSingle();
  Submit("next");
  EXPECT_EQ(Row("next").state_reason, "WAITING_FOR_SLOTS");
  Beat("a", {Exited("j", 1, 0, true)});
  EXPECT_EQ(State("next"), Job::STARTING);
}

// ---- failures ----------------------------------------------------------------------------------------------

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

TEST_F(CoreTest, FreesTheSlotOfEachRankWhenItIsGone) {
  RunPair();
  Submit("next");
  Beat("a", {Exited("j", 1, 0, false)});
  EXPECT_EQ(State("j"), Job::RECOVERING);
  EXPECT_EQ(State("next"), Job::STARTING);
  Beat("b", {Exited("j", 1, 1, false)});
  EXPECT_EQ(State("j"), Job::QUEUED);  // no replacement in this round
  EXPECT_EQ(Row("j").state_reason, "WAITING_FOR_SLOTS");
}

TEST_F(CoreTest, KeepsThePlaceInTheQueueOverAFailure) {
  RunPair();
  Submit("next", 2);
  Beat("a", {Exited("j", 1, 0, false)});
  Beat("b", {});
  EXPECT_EQ(State("j"), Job::STARTING);
  EXPECT_EQ(State("next"), Job::QUEUED);
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

TEST_F(CoreTest, JobsInBackoffBlockNobody) {
  RunSingle();
  Submit("next");
  Must(CancelJob{"next", "admin"});
  Beat("a", {Exited("j", 1, 0, false)});
  Beat("a", {Exited("j", 2, 0, false)});
  ASSERT_EQ(Row("j").state_reason, "BACKOFF");
  Submit("other");
  EXPECT_EQ(State("other"), Job::STARTING);
}

// ---- checkpoints and fences --------------------------------------------------------------------------------

ham::v1::Checkpoint CheckpointOf(int attempt, int64_t iteration) {
  ham::v1::Checkpoint checkpoint;
  checkpoint.set_attempt(attempt);
  checkpoint.set_iteration(iteration);
  checkpoint.set_epoch(1);
  checkpoint.set_manifest_digest("m");
  return checkpoint;
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

// ---- cancel ------------------------------------------------------------------------------------------------

TEST_F(CoreTest, CancelsAQueuedJobAtOnce) {
  Submit("j");
  Must(CancelJob{"j", "admin"});
  EXPECT_EQ(log_["j"].back(), "QUEUED>CANCELLED CANCEL_REQUESTED");
  Must(CancelJob{"j", "admin"});  // again: OK
  EXPECT_EQ(log_["j"].size(), 2u);
}

TEST_F(CoreTest, CancelsARunningJobOnceItsRanksAreGone) {
  RunPair();
  Must(CancelJob{"j", "admin"});
  EXPECT_EQ(State("j"), Job::CANCELLING);
  EXPECT_THAT(DesiredOf("a"), IsEmpty());
  Must(CancelJob{"j", "admin"});
  Beat("a", {Rank("j", 1, 0, ObservedRank::RUNNING)});
  Beat("b", {});
  EXPECT_EQ(State("j"), Job::CANCELLING);
  Beat("a", {Exited("j", 1, 0, false)});
  EXPECT_EQ(State("j"), Job::CANCELLED);
}

TEST_F(CoreTest, CancelsAJobThatRecovers) {
  RunPair();
  Beat("a", {Exited("j", 1, 0, false)});
  Must(CancelJob{"j", "admin"});
  EXPECT_EQ(State("j"), Job::CANCELLING);
  Beat("b", {});
  EXPECT_EQ(State("j"), Job::CANCELLED);
}

TEST_F(CoreTest, LetsAJobSucceedThatWasFasterThanItsCancel) {
  RunPair();
  Beat("a", {Exited("j", 1, 0, true)});
  Must(CancelJob{"j", "admin"});
  EXPECT_EQ(State("j"), Job::CANCELLING);
  Beat("b", {Exited("j", 1, 1, true)});
  EXPECT_EQ(State("j"), Job::SUCCEEDED);
}

TEST_F(CoreTest, RefusesToCancelWhatHasEndedOtherwise) {
  RunSingle();
  Beat("a", {Exited("j", 1, 0, true)});
  EXPECT_EQ(Apply(CancelJob{"j", "admin"}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Apply(CancelJob{"unknown", "admin"}).code(), absl::StatusCode::kNotFound);
}

TEST_F(CoreTest, CancelsARankThatItsWorkerWasNeverToldOf) {
  Register("a", 1);
  Submit("j");
  const int64_t before = core_->DesiredVersion("id-a");
  Must(CancelJob{"j", "admin"});
  Must(WorkerBeat{"id-a", 1, {}, before});  // may still be about to start it
  EXPECT_EQ(State("j"), Job::CANCELLING);
  Beat("a", {});
  EXPECT_EQ(State("j"), Job::CANCELLED);
}

// ---- workers -----------------------------------------------------------------------------------------------

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
  EXPECT_FALSE(core_->Workers().at(0).connected);
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
  Pass(absl::Seconds(14), [&] { Beat("b", {Rank("j", 1, 1, ObservedRank::RUNNING, sequence)}); });
  EXPECT_EQ(State("j"), Job::RUNNING);
  Pass(absl::Seconds(2), [&] { Beat("b", {Rank("j", 1, 1, ObservedRank::RUNNING, sequence)}); });
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

TEST_F(CoreTest, SuspectsItselfWhenManyWorkersFallSilent) {
  for (int i = 0; i < 6; ++i) Register(absl::StrCat("w", i), 1);
  for (int i = 0; i < 3; ++i) {
    Submit(absl::StrCat("j", i));
    Beat(absl::StrCat("w", i), {Rank(absl::StrCat("j", i), 1, 0, ObservedRank::RUNNING)});
  }
  const auto others = [&] {
    for (int i = 3; i < 6; ++i) {
      std::vector<ObservedRank> ranks;
      for (const DesiredRank& rank : core_->Desired(absl::StrCat("id-w", i))) {
        ranks.push_back(Rank(rank.job, rank.attempt, rank.rank, ObservedRank::RUNNING));
      }
      Beat(absl::StrCat("w", i), ranks);
    }
  };
  Pass(absl::Seconds(29), others);  // one lease of silence, nearly one of freeze
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Row(absl::StrCat("j", i)).attempt, 1);
  Pass(absl::Seconds(2), others);  // the same silence does not count twice
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Row(absl::StrCat("j", i)).attempt, 2);
}

// ---- restart -----------------------------------------------------------------------------------------------

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

// ---- batches -----------------------------------------------------------------------------------------------

// All that can be seen from outside, as text.
std::string Describe(const Coordinator& core) {
  std::string text = absl::StrCat("timer ", absl::FormatDuration(core.NextTimer()), "\n");
  for (const auto& [name, row] : core.jobs()) {
    absl::StrAppend(&text, name, " ", row.state, " ", row.state_reason, " ", row.attempt, " ", row.failed_attempts,
                    " gang ", row.gang.size(), " checkpoint ", row.checkpoint ? row.checkpoint->iteration() : -1, "\n");
  }
  for (const WorkerView& worker : core.Workers()) {
    absl::StrAppend(&text, worker.row.name, " ", worker.row.worker_id, " ", worker.row.session, " ",
                    worker.row.incarnation, " ", worker.connected, " ", absl::FormatTime(worker.last_beat_time), " ",
                    core.DesiredVersion(worker.row.worker_id), "\n");
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

TEST_F(CoreTest, PlansOnlyWhenSlotsOrQueueChanged) {
  RunSingle();
  Submit("next");
  const int calls = policy_.calls;
  for (int i = 0; i < 100; ++i) {
    Beat("a", {Rank("j", 1, 0, ObservedRank::RUNNING, i)});
    Must(TimerFired{});
  }
  EXPECT_EQ(policy_.calls, calls);
}

TEST_F(CoreTest, BeatsCauseNoWrite) {
  RunSingle();
  Submit("next");
  ASSERT_TRUE(Apply(BeatOf("a", {Rank("j", 1, 0, ObservedRank::RUNNING, 9)})).ok());
  EXPECT_TRUE(core_->pending().durable_empty());
  EXPECT_THAT(core_->pending().desired_changed, IsEmpty());
}

TEST_F(CoreTest, WritesReasonsOfWaitingJobsOnlyWhenTheyChange) {
  RunSingle();
  Submit("head");
  Submit("behind");
  EXPECT_EQ(Row("head").state_reason, "WAITING_FOR_SLOTS");
  EXPECT_EQ(Row("behind").state_reason, "BEHIND_EARLIER_JOB");
  ASSERT_TRUE(Apply(SubmitJob{NewJob("more")}).ok());
  const Effects effects = Commit();
  ASSERT_EQ(effects.jobs.size(), 1u);
  EXPECT_EQ(effects.events.size(), 1u);
  Must(CancelJob{"head", "admin"});
  EXPECT_EQ(Row("behind").state_reason, "WAITING_FOR_SLOTS");
  EXPECT_EQ(stored_jobs_.at("behind").state_reason, "WAITING_FOR_SLOTS");
  EXPECT_THAT(log_["behind"], ElementsAre("STATE_UNSPECIFIED>QUEUED SUBMITTED"));  // a row, no event
}

}  // namespace
}  // namespace ham::server
