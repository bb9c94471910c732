// A job's ordinary life: the table of its states, submit, run, cancel.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "proto/job_state.h"
#include "tests/server/core_fixture.h"

namespace ham::server {
namespace {

using ham::v1::Job;
using ham::v1::ObservedRank;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

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
  EXPECT_THAT(DesiredOf("a"), IsEmpty());  // a new agent must not start it again
  EXPECT_TRUE(stored_jobs_.at("j").gang.at(0).succeeded);
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

TEST_F(CoreTest, FailsAJobWhoseSpecCannotBeRead) {
  RunPair();
  Submit("queued", 9);
  Must(JobBroken{"j", "Its spec is damaged."});
  EXPECT_EQ(State("j"), Job::RECOVERING);
  EXPECT_THAT(DesiredOf("a"), IsEmpty());
  Beat("a", {});
  Beat("b", {});
  EXPECT_EQ(State("j"), Job::FAILED);
  EXPECT_EQ(Row("j").state_message, "Its spec is damaged.");
  Must(JobBroken{"queued", "Its spec is damaged."});
  EXPECT_EQ(State("queued"), Job::FAILED);
  Must(JobBroken{"queued", "Again."});
  Must(JobBroken{"unknown", "Again."});
  EXPECT_EQ(Row("queued").state_message, "Its spec is damaged.");
}

}  // namespace
}  // namespace ham::server
