// What must hold after each event, looked at as a whole.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/job_state.h"
#include "server/coordinator_impl.h"

namespace ham::server {

using ham::v1::Job;

std::vector<std::string> Coordinator::Impl::CheckInvariants() const {
  std::vector<std::string> broken;
  size_t placed = 0, queued = 0;
  for (const auto& [name, row] : jobs_) {
    placed += row.gang.size();
    if (IsFinal(row.state)) {  // most jobs have ended
      if (!row.gang.empty()) broken.push_back(absl::StrCat(name, " has ended with slots"));
      continue;
    }
    CheckGang(row, &broken);
    CheckRanks(row, &broken);
    const bool waits = row.state == Job::QUEUED || (row.state == Job::RECOVERING && row.gang.empty());
    const bool grows = IsActive(row.state) && row.pool && row.gang.size() < static_cast<size_t>(row.world_size);
    if (!waits && !grows) continue;
    ++queued;
    if (queue_.count({row.submit_index, name}) == 0) broken.push_back(absl::StrCat(name, " is not in the queue"));
  }
  if (queued != queue_.size()) broken.push_back("the queue holds jobs that do not wait");
  for (const auto& [id, worker] : workers_) {
    placed -= worker.ranks.size();
    CheckWorker(id, worker, &broken);
  }
  if (placed != 0) broken.push_back("a worker holds ranks that no gang names");
  return broken;
}

void Coordinator::Impl::CheckGang(const JobRow& row, std::vector<std::string>* broken) const {
  const size_t world_size = static_cast<size_t>(row.world_size);
  const bool stops = row.state == Job::RECOVERING || row.state == Job::CANCELLING;
  const bool complete = row.pool ? !row.gang.empty() && row.gang.size() <= world_size : row.gang.size() == world_size;
  if (IsActive(row.state) && !complete) broken->push_back(absl::StrCat(row.name, " holds a part of its gang"));
  if (row.state == Job::QUEUED && !row.gang.empty()) broken->push_back(absl::StrCat(row.name, " waits with slots"));
  if (stops && !globals_.restart_due && (row.gang.empty() || row.gang.size() > world_size)) {
    broken->push_back(absl::StrCat(row.name, " stops ", row.gang.size(), " ranks of ", row.world_size));
  }
}

void Coordinator::Impl::CheckRanks(const JobRow& row, std::vector<std::string>* broken) const {
  int running = 0, succeeded = 0, last = -1;
  for (const Placement& place : row.gang) {
    if (place.rank <= last) broken->push_back(absl::StrCat(row.name, " has a rank twice, or not in order"));
    last = place.rank;
    const auto breaks = [&](const char* what) {
      broken->push_back(absl::StrCat(row.name, " rank ", place.rank, " ", what));
    };
    const auto worker = workers_.find(place.worker_id);
    if (worker == workers_.end()) {
      breaks("is placed on an unknown worker");
      continue;
    }
    const auto rank = worker->second.ranks.find(RankKeyView{row.name, row.attempt, place.rank});
    if (rank == worker->second.ranks.end() || rank->second.slot != place.slot) {
      breaks("is unknown to its worker");
      continue;
    }
    if (rank->second.succeeded != place.succeeded) breaks("and its worker disagree on its end");
    if (place.session != worker->second.row.session) breaks("is placed under an older session");
    running += rank->second.running ? 1 : 0;
    succeeded += rank->second.succeeded ? 1 : 0;
  }
  if (row.pool && !row.gang.empty() && last >= row.next_rank) {
    broken->push_back(absl::StrCat(row.name, " may give rank ", last, " out again"));
  }
  const JobFacts& facts = facts_.at(row.name);
  if (IsActive(row.state) && (running != facts.running_ranks || succeeded != facts.succeeded_ranks)) {
    broken->push_back(absl::StrCat(row.name, " counts its ranks wrongly"));
  }
}

void Coordinator::Impl::CheckWorker(const std::string& worker_id, const WorkerState& worker,
                                    std::vector<std::string>* broken) const {
  for (auto one = worker.ranks.begin(); one != worker.ranks.end(); ++one) {  // few: cheaper than a set
    for (auto other = worker.ranks.begin(); other != one; ++other) {
      if (one->second.slot != other->second.slot) continue;
      broken->push_back(absl::StrCat("slot ", one->second.slot, " of ", worker.row.name, " belongs to two ranks"));
    }
  }
  const auto holder = worker_by_name_.find(worker.row.name);
  if (holder == worker_by_name_.end() || holder->second != worker_id) {
    broken->push_back(absl::StrCat("the name ", worker.row.name, " belongs to two workers"));
  }
}

}  // namespace ham::server
