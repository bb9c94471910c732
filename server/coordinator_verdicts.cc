// Verdicts: ranks that hang or hold others up, ranks that their peers lost, workers that fail again and again.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/utf8.h"
#include "server/coordinator_impl.h"

namespace ham::server {

// ---- ranks that hang -----------------------------------------------------------------------------------------

void Coordinator::Impl::JudgeRanksOf(const std::string& worker_id) {
  std::set<std::string> silent, shares;
  for (const auto& [key, facts] : workers_.at(worker_id).ranks) {
    const JobRow& row = jobs_.at(key.job);
    if (facts.succeeded || !IsActive(row.state)) continue;
    // All ranks of a hung gang are silent, and each look is at all of them.
    const bool judged = now_.steady - facts_.at(key.job).judged < options_.heartbeat;
    if (!judged && facts.pulse.IsStuck(options_.hang, row.device == "cuda")) silent.insert(key.job);
    if (facts.pulse.minute_over()) shares.insert(key.job);
  }
  for (const std::string& name : shares) NoteSlow(name);
  for (const std::string& name : silent) {
    TouchFacts(name).judged = now_.steady;
    jobs_.at(name).pool ? JudgePool(name) : JudgeGang(name);
  }
}

std::vector<GangRank> Coordinator::Impl::RanksAtWork(const JobRow& row) const {
  std::vector<GangRank> ranks;
  for (const Placement& place : row.gang) {
    if (place.succeeded) continue;
    const WorkerState& worker = workers_.at(place.worker_id);
    const bool heard = worker.connected && now_.steady - worker.heard <= 3 * options_.heartbeat;
    const auto problem = worker.problems.find(place.slot);
    ranks.push_back({.rank = place.rank,
                     .worker = worker.row.name,
                     .heard = heard,
                     .on_gpu = row.device == "cuda",
                     .problem = problem == worker.problems.end() ? "" : problem->second.message(),
                     .pulse = &worker.ranks.at({row.name, row.attempt, place.rank}).pulse});
  }
  return ranks;
}

Coordinator::Impl::Cause Coordinator::Impl::HangOf(const Verdict& verdict) {
  return {.failure_class = ham::v1::HANG,
          .reason = ham::v1::FailureClass_Name(ham::v1::HANG),
          .message = Shown(verdict.message, kMostMessageBytes),
          .actor = kCoordinator};
}

void Coordinator::Impl::JudgeGang(const std::string& name) {
  const JobRow& row = jobs_.at(name);
  const std::optional<Verdict> verdict = FindHang(RanksAtWork(row), options_.hang);
  if (!verdict) return;
  for (const Placement& place : std::vector<Placement>(row.gang)) {
    const bool named = std::binary_search(verdict->ranks.begin(), verdict->ranks.end(), place.rank);
    if (named && !verdict->link) BlameWorker(place.worker_id, name);
  }
  FailAttempt(name, HangOf(*verdict));
}

void Coordinator::Impl::JudgePool(const std::string& name) {
  const int attempt = jobs_.at(name).attempt;
  for (const GangRank& rank : RanksAtWork(jobs_.at(name))) {
    const std::optional<Verdict> verdict = FindHang({rank}, options_.hang);
    if (!verdict || !IsActive(jobs_.at(name).state)) continue;
    const std::string worker_id = worker_by_name_.at(rank.worker);
    LoseRanks(worker_id, {{name, attempt, rank.rank}}, HangOf(*verdict), false);
  }
}

void Coordinator::Impl::NoteSlow(const std::string& name) {
  const JobRow& row = jobs_.at(name);
  if (row.pool) return;
  const std::optional<Verdict> verdict = FindSlow(RanksAtWork(row));
  if (!verdict) return;
  for (const Placement& place : row.gang) {
    if (place.rank != verdict->ranks[0]) continue;
    RankFacts& facts = TouchWorker(place.worker_id).ranks.at({name, row.attempt, place.rank});
    if (!std::exchange(facts.slow, true)) Note(row, "RANK_SLOW", verdict->message, kCoordinator);
  }
}

// ---- ranks that their peers lost -----------------------------------------------------------------------------

void Coordinator::Impl::LostToPeer(const std::string& name, int rank) {
  const JobRow& row = jobs_.at(name);
  for (const Placement& place : std::vector<Placement>(row.gang)) {
    if (place.rank != rank || place.succeeded) continue;
    WorkerState& worker = TouchWorker(place.worker_id);
    worker.ranks.at({name, row.attempt, rank}).lost_to_peer = true;
    // One that has not come back to this process yet may be well.
    if (!worker.connected && worker.registration != nullptr) GiveUpLostRanks(place.worker_id);
    return;
  }
}

void Coordinator::Impl::GiveUpLostRanks(const std::string& worker_id) {
  const WorkerState& worker = workers_.at(worker_id);
  std::vector<RankKey> lost;
  for (const auto& [key, facts] : worker.ranks) {
    if (facts.lost_to_peer && !facts.succeeded) lost.push_back(key);
  }
  for (const RankKey& key : lost) {
    LoseRanks(worker_id, {key},
              {.failure_class = ham::v1::WORKER_LOST,
               .reason = ham::v1::FailureClass_Name(ham::v1::WORKER_LOST),
               .message = absl::StrCat("Worker ", worker.row.name, " is gone: its connection is closed, and other ",
                                       "ranks lost the one to its rank ", key.rank, "."),
               .actor = kCoordinator},
              false);
  }
}

// ---- workers that fail again and again -----------------------------------------------------------------------

void Coordinator::Impl::BlameWorker(const std::string& worker_id, const std::string& job) {
  std::set<std::string>& failed_on = TouchFacts(job).failed_on;
  failed_on.insert(worker_id);
  if (failed_on.size() > 1) {  // more likely the job's fault
    for (const std::string& id : failed_on) {
      std::erase_if(TouchWorker(id).failures, [&](const auto& failure) { return failure.second == job; });
    }
    return;
  }
  WorkerState& worker = TouchWorker(worker_id);
  auto& failures = worker.failures;
  std::erase_if(failures, [&](const auto& failure) { return now_.steady - failure.first > options_.exclusion_window; });
  failures.emplace_back(now_.steady, job);
  const bool one_job = std::all_of(failures.begin(), failures.end(), [&](const auto& f) { return f.second == job; });
  if (one_job || failures.size() < static_cast<size_t>(options_.exclusion_failures) || !MayExcludeOne()) return;
  const size_t count = failures.size();
  failures.clear();
  Exclude(worker);
  Note(jobs_.at(job), "WORKER_EXCLUDED",
       absl::StrCat("Worker ", worker.row.name, " gets no ranks for ", absl::FormatDuration(options_.exclusion_time),
                    ", or until it is started anew: ", count, " attempts of several jobs failed by its ranks."),
       kCoordinator);
}

void Coordinator::Impl::Exclude(WorkerState& worker) {
  worker.excluded_until = now_.steady + options_.exclusion_time;
  globals_.exclusion_check_at = std::min(globals_.exclusion_check_at, worker.excluded_until);
  worker.row.excluded = true;
  dirty_workers_.insert(worker.row.worker_id);
}

bool Coordinator::Impl::MayExcludeOne() const {
  size_t usable = 0, excluded = 1;
  for (const auto& [id, worker] : workers_) {
    if (!worker.connected || worker.unreachable) continue;
    ++usable;
    excluded += worker.excluded_until > now_.steady ? 1 : 0;
  }
  return 3 * excluded <= usable;
}

void Coordinator::Impl::Absolve(const std::string& worker_id) {
  if (!workers_.at(worker_id).failures.empty()) TouchWorker(worker_id).failures.clear();
}

void Coordinator::Impl::EndExclusions() {
  if (now_.steady < globals_.exclusion_check_at) return;
  globals_.exclusion_check_at = absl::InfiniteDuration();
  globals_.schedule_due = true;
  for (const auto& [id, worker] : workers_) {
    if (worker.excluded_until > now_.steady) {
      globals_.exclusion_check_at = std::min(globals_.exclusion_check_at, worker.excluded_until);
    } else if (worker.row.excluded) {
      TouchWorker(id).row.excluded = false;
      dirty_workers_.insert(id);
    }
  }
}

// ---- ranks that do not end -----------------------------------------------------------------------------------

void Coordinator::Impl::StopGang(const JobRow& row) {
  AnnounceGang(row);
  TouchFacts(row.name).stop_by = now_.steady + options_.stop_limit;
  globals_.stop_check_at = std::min(globals_.stop_check_at, now_.steady + options_.stop_limit);
}

void Coordinator::Impl::GiveUpUnstoppable() {
  if (now_.steady < globals_.stop_check_at) return;
  globals_.stop_check_at = absl::InfiniteDuration();
  std::vector<std::string> late;
  for (const auto& [name, facts] : facts_) {
    const JobRow& row = jobs_.at(name);
    if (row.gang.empty() || IsActive(row.state)) continue;
    if (facts.stop_by <= now_.steady) {
      late.push_back(name);
    } else {
      globals_.stop_check_at = std::min(globals_.stop_check_at, facts.stop_by);
    }
  }
  for (const std::string& name : late) {
    const int attempt = jobs_.at(name).attempt;
    for (const Placement& place : std::vector<Placement>(jobs_.at(name).gang)) {
      const WorkerState& worker = workers_.at(place.worker_id);
      LoseRanks(place.worker_id, {{name, attempt, place.rank}},
                {.failure_class = ham::v1::INFRASTRUCTURE,
                 .reason = "RANK_DOES_NOT_END",
                 .message = absl::StrCat("Rank ", place.rank, " on ", worker.row.name, " did not end within ",
                                         absl::FormatDuration(options_.stop_limit),
                                         " of being told to; its slot stays ", "taken until it does."),
                 .actor = kCoordinator,
                 .collateral = true},
                false);
    }
  }
}

}  // namespace ham::server
