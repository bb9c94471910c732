// From queue to gangs.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/coordinator_impl.h"
#include "server/scheduling_policy.h"

namespace ham::server {

using ham::v1::Job;

namespace {

constexpr size_t kMostSlotsNamed = 3;

bool WaitsForOthers(const JobRow& row) {
  return row.state == Job::QUEUED &&
         (row.state_reason == "WAITING_FOR_SLOTS" || row.state_reason == "BEHIND_EARLIER_JOB");
}

}  // namespace

void Coordinator::Impl::Schedule() {
  if (!globals_.schedule_due) return;
  globals_.schedule_due = false;
  std::vector<const JobRow*> rows;
  const std::vector<QueuedJob> queue = Queue(&rows);
  if (queue.empty()) return;
  std::vector<SlotView> all;
  const std::vector<SlotView> free = FreeSlots(&all);
  struct Schedule plan = policy_->Plan(queue, free, all);
  CheckGrants(plan, rows);
  for (const Grant& grant : plan.grants) {
    const JobRow& row = *rows[grant.job];
    if (row.gang.empty()) {
      StartAttempt(row.name, grant.slots);
    } else {
      JoinPool(row.name, grant.slots);
    }
  }
  for (WaitReason& why : plan.reasons) {
    if (why.reason == "NO_WORKER_FITS") absl::StrAppend(&why.message, ExcludedText(), ProblemsText());
  }
  for (const Refusal& refusal : plan.refusals) {
    const JobRow& row = *rows.at(refusal.job);
    // Else a restart would write a long queue twice: that no worker fits, and, once they are back, what stood there.
    // But who is overtaken has to be told why.
    if (globals_.returning && plan.grants.empty() && WaitsForOthers(row)) continue;
    Wait(row, plan.reasons.at(refusal.reason));
  }
}

std::vector<QueuedJob> Coordinator::Impl::Queue(std::vector<const JobRow*>* rows) const {
  std::vector<QueuedJob> queue;
  queue.reserve(queue_.size());
  rows->reserve(queue_.size());
  for (const auto& [key, entry] : queue_) {
    if (entry.facts->not_before > now_.steady) continue;
    const JobRow& row = *entry.row;
    QueuedJob& job = queue.emplace_back();
    job.world_size = row.world_size - static_cast<int>(row.gang.size());
    job.device = row.device;
    job.data_set = row.data_set;
    job.pool = row.pool;
    job.grows = !row.gang.empty();
    if (!row.build_id.empty()) job.group = SlotGroup{row.data_digest, row.build_id};
    for (const auto& [worker, count] : entry.facts->losses) {
      if (count >= kMostLosses) job.avoided.push_back(worker);
    }
    rows->push_back(&row);
  }
  return queue;
}

void Coordinator::Impl::CheckGrants(const struct Schedule& plan, const std::vector<const JobRow*>& rows) {
  std::set<size_t> jobs;
  std::set<std::pair<std::string_view, int>> taken;
  for (const Grant& grant : plan.grants) {
    const JobRow& row = *rows.at(grant.job);
    Require(jobs.insert(grant.job).second, absl::StrCat("the policy granted two gangs to ", row.name));
    const size_t most = static_cast<size_t>(row.world_size) - row.gang.size();
    const bool fits = row.pool ? !grant.slots.empty() && grant.slots.size() <= most : grant.slots.size() == most;
    Require(fits, absl::StrCat("the policy granted a wrong gang to ", row.name));
    for (const SlotView& slot : grant.slots) {
      Require(taken.insert({slot.worker_id, slot.index}).second, "the policy granted a slot twice");
    }
  }
}

std::string Coordinator::Impl::ExcludedText() const {
  std::vector<std::string> names;
  for (const auto& [id, worker] : workers_) {
    if (worker.connected && worker.excluded_until > now_.steady) names.push_back(worker.row.name);
  }
  if (names.empty()) return "";
  return absl::StrCat(" Excluded for a while, since ranks of several jobs failed there: ", absl::StrJoin(names, ", "),
                      ".");
}

// Without the problems' words, which may change with each beat: a change is written to all jobs that wait for it.
std::string Coordinator::Impl::ProblemsText() const {
  std::vector<std::string> slots;
  for (const auto& [name, id] : worker_by_name_) {
    const WorkerState& worker = workers_.at(id);
    if (!worker.connected || worker.unreachable) continue;
    for (const auto& [slot, problem] : worker.problems) {
      slots.push_back(absl::StrCat(slot, " of ", name, " (", ham::v1::SlotProblem::Kind_Name(problem.kind()), ")"));
    }
  }
  if (slots.empty()) return "";
  const size_t more = slots.size() - std::min(slots.size(), kMostSlotsNamed);
  slots.resize(slots.size() - more);
  return absl::StrCat(" Slots that cannot be used: ", absl::StrJoin(slots, ", "),
                      more == 0 ? "" : absl::StrCat(" and ", more, " more"), "; see the list of workers.");
}

std::vector<SlotView> Coordinator::Impl::FreeSlots(std::vector<SlotView>* all) const {
  std::vector<SlotView> free;
  for (const auto& [name, id] : worker_by_name_) {
    const WorkerState& worker = workers_.at(id);
    if (!worker.connected || worker.unreachable || worker.leaving || worker.excluded_until > now_.steady) continue;
    std::set<int> occupied;
    for (const auto& [key, facts] : worker.ranks) occupied.insert(facts.slot);
    for (const auto& [key, stale] : worker.stale) occupied.insert(stale.slot);
    for (const ham::v1::Slot& slot : worker.registration->slots) {
      if (worker.problems.count(slot.index()) != 0) continue;
      all->push_back({.worker_id = id,
                      .worker_name = name,
                      .index = slot.index(),
                      .device = slot.device(),
                      .build_id = worker.registration->build_id,
                      .data_sets = worker.registration->data_sets});
      if (occupied.count(-1) == 0 && occupied.count(slot.index()) == 0) free.push_back(all->back());
    }
  }
  return free;
}

std::string Coordinator::Impl::Place(JobRow& row, const std::vector<SlotView>& slots, int first_rank) {
  std::set<std::string> names;
  for (size_t i = 0; i < slots.size(); ++i) {
    const std::string worker_id(slots[i].worker_id);
    WorkerState& worker = TouchWorker(worker_id);
    const int rank = first_rank + static_cast<int>(i);
    row.gang.push_back({.rank = rank, .worker_id = worker_id, .session = worker.row.session, .slot = slots[i].index});
    DesiredChanged(worker);
    worker.ranks[{row.name, row.attempt, rank}] = {.slot = slots[i].index, .desired_since = worker.desired_version};
    globals_.lease_check_at = std::min(globals_.lease_check_at, worker.heard + options_.lease);
    names.insert(worker.row.name);
  }
  row.next_rank = first_rank + static_cast<int>(slots.size());
  if (row.pool && row.build_id.empty()) {
    row.build_id = slots[0].build_id;
    row.data_digest = slots[0].DigestOf(row.data_set).value_or("");
  }
  return absl::StrJoin(names, ", ");
}

void Coordinator::Impl::StartAttempt(const std::string& name, const std::vector<SlotView>& slots) {
  UnindexJob(name);
  JobRow& row = TouchJob(name);
  JobFacts& facts = TouchFacts(name);
  ++row.attempt;
  row.gang.clear();
  facts.running_ranks = 0;
  facts.succeeded_ranks = 0;
  facts.not_before = absl::ZeroDuration();
  facts.losses.clear();
  facts.start_checkpoint = row.checkpoint;
  const std::string names = Place(row, slots, 0);
  Transition(name, Job::STARTING, "GANG_PLACED", absl::StrCat("Attempt ", row.attempt, " starts on ", names, "."),
             kCoordinator);
}

void Coordinator::Impl::JoinPool(const std::string& name, const std::vector<SlotView>& slots) {
  UnindexJob(name);
  JobRow& row = TouchJob(name);
  const std::string names = Place(row, slots, row.next_rank);
  Note(row, "RANKS_JOINED",
       absl::StrCat(slots.size(), slots.size() == 1 ? " rank joins on " : " ranks join on ", names, "."), kCoordinator);
  dirty_jobs_.insert(name);
  IndexJob(name);
}

// The job has no gang this round; writes only what changed.
void Coordinator::Impl::Wait(const JobRow& current, const WaitReason& why) {
  if (current.state == Job::RECOVERING) {
    const std::string name = current.name;
    Transition(name, Job::QUEUED, why.reason, why.message, kCoordinator);
  } else if (current.state_reason != why.reason || current.state_message != why.message) {
    JobRow& row = TouchJob(current.name);
    row.state_reason = why.reason;
    row.state_message = why.message;
    dirty_jobs_.insert(row.name);
  }
}

}  // namespace ham::server
