#include "server/coordinator.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/coordinator_impl.h"

namespace ham::server {

using ham::v1::Job;

void Require(bool condition, const std::string& what) {
  if (condition) return;
  std::fprintf(stderr, "ham-coordinator: broken invariant: %s\n", what.c_str());
  std::abort();
}

// ---- events and undo ---------------------------------------------------------------------------------------

absl::Status Coordinator::Impl::Apply(const Event& event, Now now, double jitter) {
  if (!undo_globals_) undo_globals_ = globals_;
  now_ = now;
  jitter_ = std::clamp(jitter, -1.0, 1.0);
  RunRestart();
  const absl::Status status = std::visit([this](const auto& e) { return Handle(e); }, event);
  Schedule();
  return status;
}

JobRow& Coordinator::Impl::TouchJob(const std::string& name) {
  auto [undo, first] = undo_jobs_.try_emplace(name);
  if (first) {
    const auto row = jobs_.find(name);
    if (row != jobs_.end()) undo->second = {true, row->second, facts_.at(name)};
  }
  return jobs_[name];
}

JobFacts& Coordinator::Impl::TouchFacts(const std::string& name) {
  TouchJob(name);
  return facts_[name];
}

WorkerState& Coordinator::Impl::TouchWorker(const std::string& worker_id) {
  auto [undo, first] = undo_workers_.try_emplace(worker_id);
  if (first) {
    const auto worker = workers_.find(worker_id);
    if (worker != workers_.end()) undo->second = {true, worker->second};
  }
  return workers_[worker_id];
}

const Effects& Coordinator::Impl::pending() {
  for (const std::string& name : dirty_jobs_) pending_.jobs[name] = jobs_.at(name);
  for (const std::string& id : dirty_workers_) pending_.workers[id] = workers_.at(id).row;
  dirty_jobs_.clear();
  dirty_workers_.clear();
  return pending_;
}

Effects Coordinator::Impl::CommitBatch() {
  pending();
  undo_jobs_.clear();
  undo_workers_.clear();
  undo_globals_.reset();
  return std::exchange(pending_, {});
}

void Coordinator::Impl::RollbackBatch() {
  for (auto& [name, undo] : undo_jobs_) {
    UnindexJob(name);
    if (undo.existed) {
      jobs_[name] = std::move(undo.row);
      facts_[name] = std::move(undo.facts);
      IndexJob(name);
    } else {
      jobs_.erase(name);
      facts_.erase(name);
    }
  }
  for (auto& [id, undo] : undo_workers_) {  // two passes: a name may have moved from one worker to another
    const auto worker = workers_.find(id);
    if (worker != workers_.end()) worker_by_name_.erase(worker->second.row.name);
  }
  for (auto& [id, undo] : undo_workers_) {
    if (!undo.existed) {
      workers_.erase(id);
      continue;
    }
    worker_by_name_[undo.state.row.name] = id;
    workers_[id] = std::move(undo.state);
  }
  if (undo_globals_) globals_ = *undo_globals_;
  undo_jobs_.clear();
  undo_workers_.clear();
  undo_globals_.reset();
  dirty_jobs_.clear();
  dirty_workers_.clear();
  pending_ = {};
}

// ---- restore -----------------------------------------------------------------------------------------------

void Coordinator::Impl::Restore(std::vector<JobRow> jobs, std::vector<WorkerRow> workers, Now now) {
  for (WorkerRow& row : workers) {
    globals_.next_session = std::max(globals_.next_session, row.session + 1);
    worker_by_name_[row.name] = row.worker_id;
    WorkerState& worker = workers_[row.worker_id];
    worker.row = std::move(row);
    worker.heard = now.steady + 3 * options_.lease;  // with the lease itself: four
    worker.unreachable = true;
    if (worker.row.excluded) {
      worker.excluded_until = now.steady + options_.exclusion_time;
      globals_.exclusion_check_at = worker.excluded_until;
    }
  }
  for (JobRow& row : jobs) {
    const std::string name = row.name;
    globals_.next_submit_index = std::max(globals_.next_submit_index, row.submit_index + 1);
    JobFacts& facts = facts_[name];
    facts.start_checkpoint = row.checkpoint;
    const bool ran = row.state == Job::RUNNING;
    const bool told = ran && !row.pool;  // a rank that joined a pool at last may not have reached its worker
    for (const Placement& place : row.gang) {
      const auto worker = workers_.find(place.worker_id);
      Require(worker != workers_.end(), absl::StrCat("job ", name, " is placed on an unknown worker"));
      worker->second.unreachable = false;
      worker->second.ranks[{name, row.attempt, place.rank}] = {.slot = place.slot,
                                                               .desired_since = 1,  // told when it registers
                                                               .reported = told,
                                                               .running = ran || place.succeeded,
                                                               .succeeded = place.succeeded};
      facts.running_ranks += ran || place.succeeded ? 1 : 0;
      facts.succeeded_ranks += place.succeeded ? 1 : 0;
    }
    // Steady times are of this process: waits start anew, in full.
    facts.failure_streak = row.failed_attempts;
    if (row.failed_attempts > 0) facts.last_failure = now.steady;
    const bool waits = row.state == Job::RECOVERING || (row.state == Job::QUEUED && row.state_reason == "BACKOFF");
    if (waits && row.failed_attempts >= 2) facts.not_before = now.steady + BackoffAfter(row.failed_attempts);
    jobs_[name] = std::move(row);
    IndexJob(name);
  }
  globals_.lease_check_at = now.steady + 4 * options_.lease;
  globals_.restart_due = true;
  globals_.returning = true;
  globals_.schedule_due = true;
  now_ = now;
}

// ---- views -------------------------------------------------------------------------------------------------

absl::Duration Coordinator::Impl::NextTimer() const {
  if (globals_.restart_due) return absl::ZeroDuration();
  absl::Duration next = globals_.lease_check_at;
  if (!backoff_.empty()) next = std::min(next, backoff_.begin()->first);
  return std::min({next, globals_.exclusion_check_at, globals_.stop_check_at});
}

absl::Status Coordinator::Impl::CheckFence(int64_t session, const std::string& job, int attempt) const {
  const JobRow* row = FindJob(job);
  if (row != nullptr && row->attempt == attempt) {
    for (const Placement& place : row->gang) {
      if (place.session == session) return absl::OkStatus();
    }
  }
  return absl::AbortedError(absl::StrCat("session ", session, " holds no rank of attempt ", attempt, " of ", job,
                                         ": the attempt is over or was replaced; stop it"));
}

const JobRow* Coordinator::Impl::FindJob(const std::string& name) const {
  const auto row = jobs_.find(name);
  return row == jobs_.end() ? nullptr : &row->second;
}

std::optional<WorkerRow> Coordinator::Impl::FindWorker(const std::string& worker_id) const {
  const auto worker = workers_.find(worker_id);
  if (worker == workers_.end()) return std::nullopt;
  return worker->second.row;
}

std::vector<WorkerView> Coordinator::Impl::Workers() const {
  std::vector<WorkerView> views;
  for (const auto& [name, id] : worker_by_name_) {
    const WorkerState& worker = workers_.at(id);
    if (!worker.connected && name.find('~') != std::string::npos) continue;  // another worker has its name now
    WorkerView view;
    view.row = worker.row;
    view.connect_time = worker.connect_time;
    view.last_beat_time = worker.last_beat_time;
    if (worker.connected && !worker.unreachable) {
      const absl::Duration rest = worker.excluded_until - now_.steady;
      view.state = rest > absl::ZeroDuration() ? ham::v1::Worker::EXCLUDED : ham::v1::Worker::CONNECTED;
      view.excluded_until = now_.wall + rest;
    }
    if (worker.registration != nullptr) {
      view.heard = worker.heard;
      view.build_id = worker.registration->build_id;
      view.slots = worker.registration->slots;
      view.data_sets = worker.registration->data_sets;
    }
    const auto occupy = [&view](int index, const std::string& job) {
      for (ham::v1::Slot& slot : view.slots) {
        if (slot.index() == index) slot.set_job(job);
      }
    };
    for (ham::v1::Slot& slot : view.slots) {
      const auto problem = worker.problems.find(slot.index());
      if (problem != worker.problems.end()) *slot.mutable_problem() = problem->second;
    }
    for (const auto& [key, stale] : worker.stale) occupy(stale.slot, key.job);
    for (const auto& [key, facts] : worker.ranks) occupy(facts.slot, key.job);
    views.push_back(std::move(view));
  }
  return views;
}

std::vector<DesiredRank> Coordinator::Impl::Desired(const std::string& worker_id) const {
  std::vector<DesiredRank> desired;
  const auto worker = workers_.find(worker_id);
  if (worker == workers_.end()) return desired;
  for (const auto& [key, facts] : worker->second.ranks) {
    const JobRow& row = jobs_.at(key.job);
    if ((row.state != Job::STARTING && row.state != Job::RUNNING) || facts.succeeded) continue;
    desired.push_back({.job = key.job,
                       .attempt = key.attempt,
                       .rank = key.rank,
                       .world_size = row.world_size,
                       .slot = facts.slot,
                       .checkpoint = facts_.at(key.job).start_checkpoint});
  }
  return desired;
}

std::set<int> Coordinator::Impl::RunningRanks(const std::string& job) const {
  std::set<int> ranks;
  const JobRow& row = jobs_.at(job);
  for (const Placement& place : row.gang) {
    if (workers_.at(place.worker_id).ranks.at({job, row.attempt, place.rank}).running) ranks.insert(place.rank);
  }
  return ranks;
}

int64_t Coordinator::Impl::DesiredVersion(const std::string& worker_id) const {
  const auto worker = workers_.find(worker_id);
  return worker == workers_.end() ? 0 : worker->second.desired_version;
}

// ---- the public face ---------------------------------------------------------------------------------------

Coordinator::Coordinator(const CoordinatorOptions& options, const SchedulingPolicy* policy)
    : impl_(std::make_unique<Impl>(options, policy)) {}
Coordinator::~Coordinator() = default;

void Coordinator::Restore(std::vector<JobRow> jobs, std::vector<WorkerRow> workers, Now now) {
  impl_->Restore(std::move(jobs), std::move(workers), now);
}
absl::Status Coordinator::Apply(const Event& event, Now now, double jitter) { return impl_->Apply(event, now, jitter); }
const Effects& Coordinator::pending() const { return impl_->pending(); }
Effects Coordinator::CommitBatch() { return impl_->CommitBatch(); }
void Coordinator::RollbackBatch() { impl_->RollbackBatch(); }
absl::Duration Coordinator::NextTimer() const { return impl_->NextTimer(); }
absl::Duration Coordinator::FrozenUntil() const { return impl_->FrozenUntil(); }
absl::Status Coordinator::CheckFence(int64_t session, const std::string& job, int attempt) const {
  return impl_->CheckFence(session, job, attempt);
}
const JobRow* Coordinator::FindJob(const std::string& name) const { return impl_->FindJob(name); }
const std::map<std::string, JobRow>& Coordinator::jobs() const { return impl_->jobs(); }
std::optional<WorkerRow> Coordinator::FindWorker(const std::string& worker_id) const {
  return impl_->FindWorker(worker_id);
}
std::vector<WorkerView> Coordinator::Workers() const { return impl_->Workers(); }
std::vector<DesiredRank> Coordinator::Desired(const std::string& worker_id) const { return impl_->Desired(worker_id); }
std::set<int> Coordinator::RunningRanks(const std::string& job) const { return impl_->RunningRanks(job); }
int64_t Coordinator::DesiredVersion(const std::string& worker_id) const { return impl_->DesiredVersion(worker_id); }
std::vector<std::string> Coordinator::CheckInvariants() const { return impl_->CheckInvariants(); }

}  // namespace ham::server
