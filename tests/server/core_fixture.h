// A core whose events, time and store are those of the test.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/coordinator.h"
#include "server/scheduling_policy.h"

namespace ham::server {

// Counts its calls: planning is the costly part.
class CountingPolicy : public SchedulingPolicy {
 public:
  Schedule Plan(const std::vector<QueuedJob>& queue, const std::vector<SlotView>& free,
                const std::vector<SlotView>& all) const override {
    ++calls;
    return gangs.Plan(queue, free, all);
  }
  mutable int calls = 0;
  SubmitOrderGangs gangs;
};

inline ham::v1::ObservedRank Rank(const std::string& job, int attempt, int rank, ham::v1::ObservedRank::State state,
                                  int64_t collective_sequence = 0) {
  ham::v1::ObservedRank observed;
  observed.set_job(job);
  observed.set_attempt(attempt);
  observed.set_rank(rank);
  observed.set_state(state);
  observed.mutable_progress()->set_collective_sequence(collective_sequence);
  return observed;
}

inline ham::v1::ObservedRank Exited(const std::string& job, int attempt, int rank, bool success,
                                    ham::v1::FailureClass failure_class = ham::v1::TRAINER_CRASH) {
  ham::v1::ObservedRank observed = Rank(job, attempt, rank, ham::v1::ObservedRank::EXITED);
  observed.mutable_exit()->set_success(success);
  if (!success) {
    observed.mutable_exit()->set_failure_class(failure_class);
    observed.mutable_exit()->set_message("it broke.");
  }
  return observed;
}

inline ham::v1::Checkpoint CheckpointOf(int attempt, int64_t iteration) {
  ham::v1::Checkpoint checkpoint;
  checkpoint.set_attempt(attempt);
  checkpoint.set_iteration(iteration);
  checkpoint.set_epoch(1);
  checkpoint.set_manifest_digest("m");
  return checkpoint;
}

// Time stands still unless a test moves it; what is committed is kept as a store would.
class CoreTest : public ::testing::Test {
 protected:
  void Advance(absl::Duration step) { steady_ += step; }
  Now now() const { return {steady_, absl::UnixEpoch() + steady_}; }

  absl::Status Apply(const Event& event, double jitter = 0) {
    const absl::Status status = core_->Apply(event, now(), jitter);
    EXPECT_THAT(core_->CheckInvariants(), ::testing::IsEmpty());
    return status;
  }
  Effects Commit() {
    Effects effects = core_->CommitBatch();
    for (const auto& [name, row] : effects.jobs) stored_jobs_[name] = row;
    for (const auto& [id, row] : effects.workers) stored_workers_[id] = row;
    for (const EventRow& row : effects.events) {
      log_[row.job].push_back(absl::StrCat(ham::v1::Job::State_Name(row.event.from_state()), ">",
                                           ham::v1::Job::State_Name(row.event.to_state()), " ", row.event.reason()));
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
                                       const std::vector<ham::v1::ObservedRank>& observed = {}) {
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
    for (const ham::v1::ObservedRank& rank : observed) *event.registration.add_observed() = rank;
    return event;
  }
  void Register(const std::string& worker, int slots, const std::string& incarnation = "i1",
                const std::vector<ham::v1::ObservedRank>& observed = {}) {
    Must(Registration(worker, slots, incarnation, observed));
  }
  // A beat of a worker that has seen its newest assignments.
  WorkerBeat BeatOf(const std::string& worker, const std::vector<ham::v1::ObservedRank>& observed) {
    const std::string id = "id-" + worker;
    return {id, core_->FindWorker(id)->session, observed, core_->DesiredVersion(id)};
  }
  void Beat(const std::string& worker, const std::vector<ham::v1::ObservedRank>& observed) {
    Must(BeatOf(worker, observed));
  }
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

  ham::v1::Job::State State(const std::string& job) const { return core_->FindJob(job)->state; }
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
    Beat("a", {Rank("j", 1, 0, ham::v1::ObservedRank::RUNNING)});
    Beat("b", {Rank("j", 1, 1, ham::v1::ObservedRank::RUNNING)});
    ASSERT_EQ(State("j"), ham::v1::Job::RUNNING);
  }
  void RunSingle(int max_attempts = 5) {
    Register("a", 1);
    Submit("j", 1, max_attempts);
    Beat("a", {Rank("j", 1, 0, ham::v1::ObservedRank::RUNNING)});
    ASSERT_EQ(State("j"), ham::v1::Job::RUNNING);
  }

  CoordinatorOptions options_;
  CountingPolicy policy_;
  absl::Duration steady_ = absl::Seconds(100);
  std::unique_ptr<Coordinator> core_ = std::make_unique<Coordinator>(options_, &policy_);
  std::map<std::string, JobRow> stored_jobs_;
  std::map<std::string, WorkerRow> stored_workers_;
  std::map<std::string, std::vector<std::string>> log_;
};

}  // namespace ham::server
