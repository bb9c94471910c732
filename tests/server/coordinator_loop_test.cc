// The loop over a store and a clock that the test moves.
#include "server/coordinator_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "proto/rpc_status.h"
#include "server/loop_calls.h"
#include "server/scheduling_policy.h"
#include "tests/server/core_fixture.h"

namespace ham::server {
namespace {

using ham::v1::Job;
using ham::v1::ObservedRank;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ScriptedClock : public Clock {
 public:
  Now Read() const override {
    absl::MutexLock lock(&mutex_);
    return {steady_, absl::UnixEpoch() + steady_};
  }
  void Advance(absl::Duration step) {
    absl::MutexLock lock(&mutex_);
    steady_ += step;
  }

 private:
  mutable absl::Mutex mutex_;
  absl::Duration steady_ ABSL_GUARDED_BY(mutex_) = absl::Seconds(100);
};

// Keeps contents alone; fails and takes its time as told. Any thread.
class ScriptedStore : public Store {
 public:
  explicit ScriptedStore(ScriptedClock* clock) : clock_(clock) {}

  void Fail(bool fails) {
    absl::MutexLock lock(&mutex_);
    fails_ = fails;
  }
  void TakeFor(absl::Duration time) {
    absl::MutexLock lock(&mutex_);
    time_ = time;
  }
  void Damage(const std::string& job) {
    absl::MutexLock lock(&mutex_);
    damaged_.insert(job);
  }
  bool open() {
    absl::MutexLock lock(&mutex_);
    return open_;
  }

  absl::StatusOr<Contents> Load() override { return Contents(); }
  absl::Status Commit(const Transaction& transaction) override {
    absl::MutexLock lock(&mutex_);
    clock_->Advance(time_);
    open_ = open_ && !fails_;
    if (!open_) return absl::UnavailableError("no disk");
    for (const auto& [job, content] : transaction.contents) contents_[job] = content;
    return absl::OkStatus();
  }
  absl::Status Reopen() override {
    absl::MutexLock lock(&mutex_);
    clock_->Advance(time_);
    open_ = !fails_;
    return open_ ? absl::OkStatus() : absl::UnavailableError("no disk");
  }
  absl::StatusOr<JobContent> GetContent(const std::string& job) override {
    absl::MutexLock lock(&mutex_);
    if (damaged_.count(job) != 0) return absl::DataLossError("row of contents is damaged");
    return contents_[job];
  }
  absl::StatusOr<std::map<std::string, std::string>> GetLabels(const std::string&) override {
    return std::map<std::string, std::string>();
  }
  absl::StatusOr<std::vector<RecordPtr>> ReadLog(const std::string&, int64_t, int, size_t) override {
    return std::vector<RecordPtr>();
  }
  absl::StatusOr<int64_t> GetSpool(const std::string&, int, int) override { return 0; }
  absl::StatusOr<std::optional<RequestRow>> GetRequest(const std::string&, const std::string&, absl::Time) override {
    return std::nullopt;
  }

 private:
  ScriptedClock* const clock_;
  absl::Mutex mutex_;
  bool open_ ABSL_GUARDED_BY(mutex_) = true;
  bool fails_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration time_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> damaged_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, JobContent> contents_ ABSL_GUARDED_BY(mutex_);
};

// Keeps the newest assignments.
class Stream : public WorkerStream {
 public:
  void Send(ham::v1::CoordinatorMessage message) override {
    absl::MutexLock lock(&mutex_);
    if (message.has_desired()) desired_ = message.desired();
  }
  void End(const absl::Status&) override {}
  std::vector<std::string> jobs() {
    absl::MutexLock lock(&mutex_);
    std::vector<std::string> jobs;
    for (const ham::v1::Assignment& assignment : desired_.assignments()) jobs.push_back(assignment.job());
    return jobs;
  }

 private:
  absl::Mutex mutex_;
  ham::v1::DesiredAssignments desired_ ABSL_GUARDED_BY(mutex_);
};

class LoopTest : public ::testing::Test {
 protected:
  void Start() {
    hub_.emplace(limits_, &clock_, WatchTokens("e"),
                 [](const std::string&, int64_t, int, size_t) { return absl::StatusOr<std::vector<RecordPtr>>(); });
    loop_.emplace(
        CoordinatorLoop::Options{.cluster_id = "c", .term = 1, .limits = limits_},
        CoordinatorLoop::Parts{&store_, &policy_, &clock_, &*hub_, &rendezvous_, &snapshot_, [] { return 0.0; }},
        Store::Contents());
  }
  ham::v1::RegisterWorker Registration(const std::string& worker, int slots = 1) {
    ham::v1::RegisterWorker registration;
    registration.set_worker_id("id-" + worker);
    registration.set_worker_name(worker);
    registration.set_incarnation("i1");
    for (int i = 0; i < slots; ++i) {
      registration.add_slots()->set_index(i);
      registration.mutable_slots(i)->set_device("cpu");
    }
    registration.add_data_sets()->set_name("d");
    return registration;
  }
  std::shared_ptr<Stream> Register(const std::string& worker, int slots = 1) {
    auto stream = std::make_shared<Stream>();
    absl::Notification over;
    loop_->Register(Registration(worker, slots), stream, [&](const absl::StatusOr<int64_t>& session) {
      EXPECT_TRUE(session.ok()) << session.status();
      if (session.ok()) sessions_[worker] = *session;
      over.Notify();
    });
    over.WaitForNotification();
    return stream;
  }
  absl::Status Create(const std::string& name) {
    NewJob job;
    job.row.name = name;
    job.row.creator = "admin";
    job.row.device = "cpu";
    job.row.data_set = "d";
    return CreateJobAndWait(&*loop_, job).status();
  }
  void Beat(const std::string& worker, const std::vector<ObservedRank>& observed, CoordinatorLoop::Done done) {
    ham::v1::Beat beat;
    beat.mutable_observed()->Assign(observed.begin(), observed.end());
    loop_->Beat("id-" + worker, sessions_[worker], std::move(beat), std::move(done));
  }
  absl::Status Beat(const std::string& worker, const std::vector<ObservedRank>& observed) {
    absl::Status result;
    absl::Notification over;
    Beat(worker, observed, [&](const absl::Status& status) {
      result = status;
      over.Notify();
    });
    over.WaitForNotification();
    return result;
  }
  // Waits until all that was posted is done, and what that posted.
  void Settle() {
    for (int i = 0; i < 3; ++i)
      ReadAndWait(&*loop_, [](const CoordinatorLoop::View&) { return absl::OkStatus(); }).IgnoreError();
  }
  JobRow Row(const std::string& job) {
    JobRow row;
    ReadAndWait(&*loop_, [&](const CoordinatorLoop::View& view) {
      row = *view.core().FindJob(job);
      return absl::OkStatus();
    }).IgnoreError();
    return row;
  }
  // Time passes while the loop runs.
  void Pass(absl::Duration span) {
    for (absl::Duration left = span; left > absl::ZeroDuration(); left -= absl::Seconds(3)) {
      clock_.Advance(std::min(left, absl::Seconds(3)));
      Settle();
    }
  }
  void RunJob() {
    Register("a");
    ASSERT_TRUE(Create("j").ok());
    ASSERT_TRUE(Beat("a", {Rank("j", 1, 0, ObservedRank::RUNNING)}).ok());
    ASSERT_EQ(Row("j").state, Job::RUNNING);
  }

  Limits limits_;
  ScriptedClock clock_;
  ScriptedStore store_{&clock_};
  const SubmitOrderGangs policy_{};
  RendezvousTable rendezvous_{RendezvousTable::Bounds{}};
  SnapshotCell snapshot_;
  std::optional<WatchHub> hub_;
  std::optional<CoordinatorLoop> loop_;
  std::map<std::string, int64_t> sessions_;
};

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
  EXPECT_FALSE(snapshot_.Get()->workers.at(0).connected);
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
