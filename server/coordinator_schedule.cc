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
    const JobRow& row = *entry.row;
    QueuedJob job{row.name, row.world_size, row.device, row.data_set, row.pool};
    job.world_size -= static_cast<int>(row.gang.size());
    job.grows = !row.gang.empty();
    if (!row.build_id.empty()) job.group = SlotGroup{row.data_digest, row.build_id};
    for (const auto& [worker, count] : entry.facts->losses) {
      if (count >= kMostLosses) job.avoided.insert(worker);
    }
    rows.push_back(&row);
    queue.push_back(std::move(job));
  }
  if (queue.empty()) return;
  std::vector<FreeSlot> all;
  const std::vector<FreeSlot> free = FreeSlots(&all);
  const struct Schedule plan = policy_->Plan(queue, free, all);
  std::set<std::pair<std::string, int>> taken;
  for (const Grant& grant : plan.grants) {
    const JobRow& row = jobs_.at(grant.job);
    const size_t most = static_cast<size_t>(row.world_size) - row.gang.size();
    const bool fits = row.pool ? !grant.slots.empty() && grant.slots.size() <= most : grant.slots.size() == most;
    Require(fits && queue_.count({row.submit_index, grant.job}) == 1,
            absl::StrCat("the policy granted a wrong gang to ", grant.job));
    for (const FreeSlot& slot : grant.slots) {
      Require(taken.insert({slot.worker_id, slot.index}).second, "the policy granted a slot twice");
    }
    if (row.gang.empty()) {
      StartAttempt(grant.job, grant.slots);
    } else {
      JoinPool(grant.job, grant.slots);
    }
  }
  size_t next = 0;  // refusals usually come in the order of the queue
  for (const Refusal& refusal : plan.refusals) {
    while (next < rows.size() && rows[next]->name != refusal.job) ++next;
    std::string message = refusal.message;
    if (refusal.reason == "NO_WORKER_FITS") absl::StrAppend(&message, ExcludedText());
    Wait(next < rows.size() ? *rows[next] : jobs_.at(refusal.job), refusal.reason, message);
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

std::vector<FreeSlot> Coordinator::Impl::FreeSlots(std::vector<FreeSlot>* all) const {
  std::vector<FreeSlot> free;
  for (const auto& [name, id] : worker_by_name_) {
    const WorkerState& worker = workers_.at(id);
    if (!worker.connected || worker.unreachable || worker.leaving || worker.excluded_until > now_.steady) continue;
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
      all->push_back(slot);
      if (occupied.count(-1) == 0 && occupied.count(slot.index) == 0) free.push_back(slot);
    }
  }
  return free;
}

std::string Coordinator::Impl::Place(JobRow& row, const std::vector<FreeSlot>& slots, int first_rank) {
  std::set<std::string> names;
  for (size_t i = 0; i < slots.size(); ++i) {
    WorkerState& worker = TouchWorker(slots[i].worker_id);
    const int rank = first_rank + static_cast<int>(i);
    row.gang.push_back(
        {.rank = rank, .worker_id = slots[i].worker_id, .session = worker.row.session, .slot = slots[i].index});
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

void Coordinator::Impl::StartAttempt(const std::string& name, const std::vector<FreeSlot>& slots) {
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

void Coordinator::Impl::JoinPool(const std::string& name, const std::vector<FreeSlot>& slots) {
  UnindexJob(name);
  JobRow& row = TouchJob(name);
  const std::string names = Place(row, slots, row.next_rank);
  Note(row, "RANKS_JOINED",
       absl::StrCat(slots.size(), slots.size() == 1 ? " rank joins on " : " ranks join on ", names, "."), kCoordinator);
  dirty_jobs_.insert(name);
  IndexJob(name);
}

// The job has no gang this round; writes only what changed.
void Coordinator::Impl::Wait(const JobRow& current, const std::string& reason, const std::string& message) {
  if (current.state == Job::RECOVERING) {
    const std::string name = current.name;
    Transition(name, Job::QUEUED, reason, message, kCoordinator);
  } else if (current.state_reason != reason || current.state_message != message) {
    JobRow& row = TouchJob(current.name);
    row.state_reason = reason;
    row.state_message = message;
    dirty_jobs_.insert(row.name);
  }
}

}  // namespace ham::server
