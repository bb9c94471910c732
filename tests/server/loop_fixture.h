// A CoordinatorLoop over a store and a clock that the test moves.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "server/coordinator_loop.h"
#include "server/loop_calls.h"
#include "server/scheduling_policy.h"
#include "tests/server/core_fixture.h"

namespace ham::server {

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
  // So many commits succeed, then it fails.
  void FailAfter(int commits) {
    absl::MutexLock lock(&mutex_);
    fail_after_ = commits;
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

  absl::StatusOr<Contents> Load() override {
    absl::MutexLock lock(&mutex_);
    Contents contents;
    for (const auto& [name, row] : jobs_) contents.jobs.push_back(row);
    for (const auto& [id, row] : workers_) contents.workers.push_back(row);
    for (const auto& [name, log] : logs_) contents.last_sequence[name] = std::ssize(log);
    return contents;
  }
  std::vector<RecordPtr> Log(const std::string& job) {
    absl::MutexLock lock(&mutex_);
    return logs_[job];
  }
  absl::Status Commit(const Transaction& transaction) override {
    absl::MutexLock lock(&mutex_);
    clock_->Advance(time_);
    if (fail_after_ >= 0 && fail_after_-- == 0) fails_ = true;
    open_ = open_ && !fails_;
    if (!open_) return absl::UnavailableError("no disk");
    for (const auto& [job, row] : transaction.jobs) jobs_[job] = row;
    for (const auto& [id, row] : transaction.workers) workers_[id] = row;
    for (const SpoolRow& row : transaction.spools) spools_[{row.job, row.attempt, row.rank}] = row.sequence;
    for (const auto& [job, content] : transaction.contents) contents_[job] = content;
    for (const auto& [job, records] : transaction.records) {
      logs_[job].insert(logs_[job].end(), records.begin(), records.end());
    }
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
  // A page of two.
  absl::StatusOr<std::vector<RecordPtr>> ReadLog(const std::string& job, int64_t after, int, size_t) override {
    absl::MutexLock lock(&mutex_);
    if (damaged_.count(job) != 0) return absl::DataLossError("row of the log is damaged");
    const std::vector<RecordPtr>& log = logs_[job];
    const auto begin = log.begin() + std::min<std::ptrdiff_t>(after, std::ssize(log));
    return std::vector<RecordPtr>(begin, begin + std::min<std::ptrdiff_t>(2, log.end() - begin));
  }
  absl::StatusOr<int64_t> GetSpool(const std::string& job, int attempt, int rank) override {
    absl::MutexLock lock(&mutex_);
    return spools_[{job, attempt, rank}];
  }
  absl::StatusOr<std::optional<RequestRow>> GetRequest(const std::string&, const std::string&, absl::Time) override {
    return std::nullopt;
  }

 private:
  ScriptedClock* const clock_;
  absl::Mutex mutex_;
  bool open_ ABSL_GUARDED_BY(mutex_) = true;
  bool fails_ ABSL_GUARDED_BY(mutex_) = false;
  int fail_after_ ABSL_GUARDED_BY(mutex_) = -1;
  absl::Duration time_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> damaged_ ABSL_GUARDED_BY(mutex_);
  std::map<std::tuple<std::string, int, int>, int64_t> spools_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, JobRow> jobs_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, WorkerRow> workers_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, JobContent> contents_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::vector<RecordPtr>> logs_ ABSL_GUARDED_BY(mutex_);
};

// Keeps the newest assignments.
class Stream : public WorkerStream {
 public:
  void Send(ham::v1::CoordinatorMessage message) override {
    absl::MutexLock lock(&mutex_);
    if (message.has_desired()) desired_ = message.desired();
  }
  void End(const absl::Status&) override {}
  ham::v1::DesiredAssignments desired() {
    absl::MutexLock lock(&mutex_);
    return desired_;
  }
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
        CoordinatorLoop::Parts{&store_, &policy_, &clock_, &*hub_, &rendezvous_, &snapshot_, [] { return 0.0; },
                               [this](EvaluationRecord record, std::function<void(absl::StatusOr<std::string>)> done) {
                                 Record(std::move(record), std::move(done));
                               }},
        *store_.Load());
  }
  ham::v1::RegisterWorker Registration(const std::string& worker, int slots = 1,
                                       const std::vector<ham::v1::ObservedRank>& observed = {}) {
    ham::v1::RegisterWorker registration;
    registration.set_worker_id("id-" + worker);
    registration.set_worker_name(worker);
    registration.set_incarnation("i1");
    for (int i = 0; i < slots; ++i) {
      registration.add_slots()->set_index(i);
      registration.mutable_slots(i)->set_device("cpu");
    }
    registration.add_data_sets()->set_name("d");
    registration.mutable_observed()->Assign(observed.begin(), observed.end());
    return registration;
  }
  std::shared_ptr<Stream> Register(const std::string& worker, int slots = 1,
                                   const std::vector<ham::v1::ObservedRank>& observed = {}) {
    auto stream = std::make_shared<Stream>();
    absl::Notification over;
    loop_->Register(Registration(worker, slots, observed), stream, [&](const absl::StatusOr<int64_t>& session) {
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
  void Beat(const std::string& worker, const std::vector<ham::v1::ObservedRank>& observed, CoordinatorLoop::Done done) {
    ham::v1::Beat beat;
    beat.mutable_observed()->Assign(observed.begin(), observed.end());
    loop_->Beat("id-" + worker, sessions_[worker], std::move(beat), std::move(done));
  }
  absl::Status Beat(const std::string& worker, const std::vector<ham::v1::ObservedRank>& observed) {
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
    ASSERT_TRUE(Beat("a", {Rank("j", 1, 0, ham::v1::ObservedRank::RUNNING)}).ok());
    ASSERT_EQ(Row("j").state, ham::v1::Job::RUNNING);
  }

  // Of EvaluationRecords; loop's thread.
  virtual void Record(EvaluationRecord, std::function<void(absl::StatusOr<std::string>)>) {}

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

}  // namespace ham::server
