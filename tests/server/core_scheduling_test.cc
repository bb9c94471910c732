// When gangs start, who waits for whom, and what planning costs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/core_fixture.h"

namespace ham::server {
namespace {

using ham::v1::Job;
using ham::v1::ObservedRank;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

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

TEST_F(CoreTest, GivesSlotsOfAFinishedJobToTheNext) {
  RunSingle();
  Submit("next");
  EXPECT_EQ(Row("next").state_reason, "WAITING_FOR_SLOTS");
  Beat("a", {Exited("j", 1, 0, true)});
  EXPECT_EQ(State("next"), Job::STARTING);
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

// Grants each job its gang `times`, from the first free slot on.
class RepeatedGrants : public SchedulingPolicy {
 public:
  explicit RepeatedGrants(int times) : times_(times) {}
  Schedule Plan(const std::vector<QueuedJob>& queue, const std::vector<SlotView>& free,
                const std::vector<SlotView>&) const override {
    Schedule plan;
    size_t next = 0;
    for (size_t job = 0; job < queue.size(); ++job) {
      for (int i = 0; i < times_ && next < free.size(); ++i) plan.grants.push_back({job, {free[next++]}});
    }
    return plan;
  }

 private:
  const int times_;
};

TEST_F(CoreTest, DiesRatherThanGiveAJobTwoGangs) {
  const auto run = [](int times) {
    const RepeatedGrants policy(times);
    Coordinator core({}, &policy);
    core.Restore({}, {}, {});
    EXPECT_TRUE(core.Apply(Registration("a", 2), {}, 0).ok());
    EXPECT_TRUE(core.Apply(SubmitJob{NewJob("j")}, {}, 0).ok());
    EXPECT_EQ(core.FindJob("j")->gang.size(), 1u);
  };
  run(1);
  EXPECT_DEATH(run(2), "broken invariant: the policy granted two gangs to j");
}

}  // namespace
}  // namespace ham::server
