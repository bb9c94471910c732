// The loop over a store and a clock that the test moves.
#include "server/coordinator_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "proto/rpc_status.h"
#include "tests/server/loop_fixture.h"

namespace ham::server {
namespace {

using ham::v1::Job;
using ham::v1::ObservedRank;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(LoopTest, LosesTheRanksOfASilentWorker) {
  Start();
  RunJob();
  Pass(absl::Seconds(18));
  EXPECT_EQ(Row("j").state, Job::QUEUED);
}

TEST_F(LoopTest, TakesItsOwnStallForNoSilence) {
  Start();
  RunJob();
  clock_.Advance(absl::Seconds(60));  // the whole process stood still
  Settle();
  EXPECT_EQ(Row("j").state, Job::RUNNING);
  Pass(absl::Seconds(12));
  EXPECT_EQ(Row("j").state, Job::RUNNING);
  Pass(absl::Seconds(6));  // a whole lease to be heard
  EXPECT_EQ(Row("j").state, Job::QUEUED);
}

TEST_F(LoopTest, TakesALongCommitForNoSilence) {
  Start();
  RunJob();
  store_.TakeFor(absl::Seconds(60));
  ASSERT_TRUE(Create("other").ok());
  store_.TakeFor(absl::ZeroDuration());
  Pass(absl::Seconds(12));
  EXPECT_EQ(Row("j").state, Job::RUNNING);
}

TEST_F(LoopTest, JudgesNoSilenceWhileBeatsWait) {
  limits_.batch_requests = 1;
  Start();
  RunJob();
  Pass(absl::Seconds(12));
  absl::Notification held;
  absl::Notification go_on;
  loop_->Inspect([&](const absl::StatusOr<CoordinatorLoop::View>&) {
    held.Notify();
    go_on.WaitForNotification();
  });
  held.WaitForNotification();
  loop_->Inspect([](const absl::StatusOr<CoordinatorLoop::View>&) {});
  Beat("a", {Rank("j", 1, 0, ObservedRank::RUNNING)}, [](const absl::Status&) {});
  clock_.Advance(absl::Seconds(4));
  go_on.Notify();
  Settle();
  EXPECT_EQ(Row("j").state, Job::RUNNING);
}

TEST_F(LoopTest, GivesWorkersALeaseAfterTheStoreWasOpenedAgain) {
  Start();
  RunJob();
  store_.Fail(true);
  EXPECT_TRUE(absl::IsUnavailable(Create("other")));
  Pass(absl::Seconds(30));
  store_.Fail(false);
  store_.TakeFor(absl::Seconds(6));  // to check the file
  Pass(absl::Seconds(3));
  EXPECT_TRUE(store_.open());
  store_.TakeFor(absl::ZeroDuration());
  Pass(absl::Seconds(12));
  EXPECT_EQ(Row("j").state, Job::RUNNING);
  Pass(absl::Seconds(6));
  EXPECT_EQ(Row("j").state, Job::QUEUED);
}

TEST_F(LoopTest, RemembersADisconnectThatWasUndone) {
  Start();
  const auto stream = Register("a");
  // Held, so that the next two are one batch.
  absl::Notification go_on;
  loop_->Inspect([&](const absl::StatusOr<CoordinatorLoop::View>&) { go_on.WaitForNotification(); });
  store_.Fail(true);
  loop_->Disconnected("id-a", sessions_["a"], stream.get());
  absl::Notification refused;
  loop_->Apply(SubmitJob{}, [&](const absl::Status&) { refused.Notify(); });
  go_on.Notify();
  refused.WaitForNotification();
  store_.Fail(false);
  Pass(absl::Seconds(3));
  ASSERT_TRUE(Create("j").ok());
  EXPECT_EQ(Row("j").state, Job::QUEUED);
  EXPECT_EQ(snapshot_.Get()->workers.at(0).state, ham::v1::Worker::UNREACHABLE);
}

TEST_F(LoopTest, KnowsThatAWorkerWhoseOldStreamEndsAfterItsNewOneBeganIsConnected) {
  Start();
  const auto old = Register("a");
  absl::Notification go_on;
  loop_->Inspect([&](const absl::StatusOr<CoordinatorLoop::View>&) { go_on.WaitForNotification(); });
  const auto stream = std::make_shared<Stream>();
  loop_->Register(Registration("a"), stream, [](const absl::StatusOr<int64_t>&) {});
  loop_->Disconnected("id-a", sessions_["a"], old.get());
  go_on.Notify();
  ASSERT_TRUE(Create("j").ok());
  Settle();
  EXPECT_THAT(stream->jobs(), ElementsAre("j"));
}

TEST_F(LoopTest, SendsTheOtherAssignmentsWhenASpecCannotBeRead) {
  Start();
  ASSERT_TRUE(Create("bad").ok());
  ASSERT_TRUE(Create("good").ok());
  store_.Damage("bad");
  const auto stream = Register("a", 2);
  Settle();
  EXPECT_THAT(stream->jobs(), ElementsAre("good"));
  EXPECT_TRUE(Beat("a", {}).ok());
  EXPECT_EQ(Row("bad").state, Job::RECOVERING);  // until the worker has seen that it is to stop
  EXPECT_THAT(Row("bad").state_message, HasSubstr("row of contents is damaged"));
}

TEST_F(LoopTest, CountsBeatsAndRegistrationsInTheBoundOfTheQueue) {
  limits_.queued_bytes = 4096;
  Start();
  Register("a");
  absl::Notification held;
  absl::Notification go_on;
  loop_->Inspect([&](const absl::StatusOr<CoordinatorLoop::View>&) {
    held.Notify();
    go_on.WaitForNotification();
  });
  held.WaitForNotification();
  absl::Status beat;
  Beat("a", {Rank(std::string(5000, 'j'), 1, 0, ObservedRank::RUNNING)},
       [&](const absl::Status& status) { beat = status; });
  EXPECT_EQ(ReasonOf(beat), "QUEUE_FULL");
  absl::Status registered;
  ham::v1::RegisterWorker large = Registration("b");
  large.mutable_data_sets(0)->set_digest(std::string(5000, 'd'));
  loop_->Register(large, std::make_shared<Stream>(),
                  [&](const absl::StatusOr<int64_t>& session) { registered = session.status(); });
  EXPECT_EQ(ReasonOf(registered), "QUEUE_FULL");
  go_on.Notify();
  Settle();
}

// ThreadSanitizer watches.
TEST_F(LoopTest, ASnapshotIsReadWhileTheNextIsSet) {
  constexpr int64_t kSets = 2000;
  std::thread reader([this] {
    for (int64_t seen = 0; seen < kSets; std::this_thread::yield()) {
      const int64_t commits = snapshot_.Get()->commits;
      ASSERT_GE(commits, seen);
      seen = commits;
    }
  });
  for (int64_t commits = 1; commits <= kSets; ++commits) {
    ClusterSnapshot next;
    next.commits = commits;
    snapshot_.Set(std::make_shared<const ClusterSnapshot>(std::move(next)));
    std::this_thread::yield();
  }
  reader.join();
}

}  // namespace
}  // namespace ham::server
