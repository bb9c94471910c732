// From queue to gangs.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/coordinator_impl.h"
#include "server/scheduling_policy.h"

namespace ham::server {

using ham::v1::Job;

void Coordinator::Impl::Schedule() {
  if (!globals_.schedule_due) return;
  globals_.schedule_due = false;
  std::vector<QueuedJob> queue;
  std::vector<const JobRow*> rows;  // of `queue`
  queue.reserve(queue_.size());
  rows.reserve(queue_.size());
  for (const auto& [key, entry] : queue_) {
    if (entry.facts->not_before > now_.steady) continue;
    rows.push_back(entry.row);
    queue.push_back({entry.row->name, entry.row->world_size, entry.row->device, entry.row->data_set});
  }
  if (queue.empty()) return;
  std::vector<FreeSlot> free;
  std::vector<FreeSlot> all;
  for (const auto& [name, id] : worker_by_name_) {
    const WorkerState& worker = workers_.at(id);
    if (!worker.connected || worker.unreachable) continue;
    std::set<int> occupied;
    for (const auto& [key, facts] : worker.ranks) occupied.insert(facts.slot);
    for (const auto& [key, stale] : worker.stale) occupied.insert(stale.slot);
    FreeSlot slot;
    slot.worker_id = id;
    slot.worker_name = name;
    slot.build_id = worker.registration->build_id;
    for (const ham::v1::DataSet& data_set : worker.registration->data_sets) {
      slot.data_sets.emplace_back(data_set.name(), data_set.digest());
    }
    for (const ham::v1::Slot& registered : worker.registration->slots) {
      slot.index = registered.index();
      slot.device = registered.device();
      all.push_back(slot);
      if (occupied.count(-1) == 0 && occupied.count(slot.index) == 0) free.push_back(slot);
    }
  }
  const struct Schedule plan = policy_->Plan(queue, free, all);
  std::set<std::pair<std::string, int>> taken;
  for (const Grant& grant : plan.grants) {
    const JobRow& row = jobs_.at(grant.job);
    Require(static_cast<int>(grant.slots.size()) == row.world_size && queue_.count({row.submit_index, grant.job}) == 1,
            absl::StrCat("the policy granted a wrong gang to ", grant.job));
    std::vector<Placement> gang;
    for (const FreeSlot& slot : grant.slots) {
      Require(taken.insert({slot.worker_id, slot.index}).second, "the policy granted a slot twice");
      gang.push_back({.rank = static_cast<int>(gang.size()),
                      .worker_id = slot.worker_id,
                      .session = workers_.at(slot.worker_id).row.session,
                      .slot = slot.index});
    }
    StartAttempt(grant.job, gang);
  }
  size_t next = 0;  // refusals usually come in the order of the queue
  for (const Refusal& refusal : plan.refusals) {
    while (next < rows.size() && rows[next]->name != refusal.job) ++next;
    Wait(next < rows.size() ? *rows[next] : jobs_.at(refusal.job), refusal.reason, refusal.message);
  }
}

void Coordinator::Impl::StartAttempt(const std::string& name, const std::vector<Placement>& gang) {
  UnindexJob(name);
  JobRow& row = TouchJob(name);
  JobFacts& facts = TouchFacts(name);
  ++row.attempt;
  row.gang = gang;
  facts.running_ranks = 0;
  facts.succeeded_ranks = 0;
  facts.not_before = absl::ZeroDuration();
  facts.start_checkpoint = row.checkpoint;
  std::set<std::string> names;
  for (const Placement& place : gang) {
    WorkerState& worker = TouchWorker(place.worker_id);
    DesiredChanged(worker);
    worker.ranks[{name, row.attempt, place.rank}] = {.slot = place.slot, .desired_since = worker.desired_version};
    globals_.lease_check_at = std::min(globals_.lease_check_at, worker.heard + options_.lease);
    names.insert(worker.row.name);
  }
  Transition(name, Job::STARTING, "GANG_PLACED",
             absl::StrCat("Attempt ", row.attempt, " starts on ", absl::StrJoin(names, ", "), "."), "coordinator");
}

// The job has no gang this round; writes only what changed.
void Coordinator::Impl::Wait(const JobRow& current, const std::string& reason, const std::string& message) {
  if (current.state == Job::RECOVERING) {
    const std::string name = current.name;
    Transition(name, Job::QUEUED, reason, message, "coordinator");
  } else if (current.state_reason != reason || current.state_message != message) {
    JobRow& row = TouchJob(current.name);
    row.state_reason = reason;
    row.state_message = message;
    dirty_jobs_.insert(row.name);
  }
}

}  // namespace ham::server
