// Verdicts: ranks that hang or hold others up, ranks that their peers lost, workers that fail again and again.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/coordinator_impl.h"

namespace ham::server {

// ---- ranks that hang -----------------------------------------------------------------------------------------

void Coordinator::Impl::JudgeRanksOf(const std::string& worker_id) {
  const absl::Duration least = std::min(options_.hang.least, options_.hang.unknown);
  std::set<std::string> silent, shares;
  for (const auto& [key, facts] : workers_.at(worker_id).ranks) {
    if (facts.succeeded || !IsActive(jobs_.at(key.job).state)) continue;
    if (facts.pulse.silence() >= least) silent.insert(key.job);
    if (facts.pulse.minute_over()) shares.insert(key.job);
  }
  for (const std::string& name : shares) NoteSlow(name);
  for (const std::string& name : silent) jobs_.at(name).pool ? JudgePool(name) : JudgeGang(name);
}

std::vector<GangRank> Coordinator::Impl::RanksAtWork(const JobRow& row) const {
  std::vector<GangRank> ranks;
  for (const Placement& place : row.gang) {
    if (place.succeeded) continue;
    const WorkerState& worker = workers_.at(place.worker_id);
    const bool heard = worker.connected && now_.steady - worker.heard <= 3 * options_.heartbeat;
    ranks.push_back({.rank = place.rank,
                     .worker = worker.row.name,
                     .heard = heard,
                     .on_gpu = row.device == "cuda",
                     .pulse = &worker.ranks.at({row.name, row.attempt, place.rank}).pulse});
  }
  return ranks;
}

void Coordinator::Impl::JudgeGang(const std::string& name) {
  const JobRow& row = jobs_.at(name);
  const std::vector<GangRank> ranks = RanksAtWork(row);
  const std::optional<Verdict> verdict = FindHang(ranks, options_.hang);
  if (!verdict) return;
  // Of a broken link it is not known which end is to blame.
  if (ranks.size() == 1 || verdict->ranks.size() < ranks.size()) {
    for (const Placement& place : std::vector<Placement>(row.gang)) {
      if (std::binary_search(verdict->ranks.begin(), verdict->ranks.end(), place.rank)) {
        BlameWorker(place.worker_id, name);
      }
    }
  }
  FailAttempt(name, {.failure_class = ham::v1::HANG,
                     .reason = ham::v1::FailureClass_Name(ham::v1::HANG),
                     .message = verdict->message,
                     .actor = kCoordinator});
}

void Coordinator::Impl::JudgePool(const std::string& name) {
  const int attempt = jobs_.at(name).attempt;
  for (const GangRank& rank : RanksAtWork(jobs_.at(name))) {
    const std::optional<Verdict> verdict = FindHang({rank}, options_.hang);
    if (!verdict || !IsActive(jobs_.at(name).state)) continue;
    const std::string worker_id = worker_by_name_.at(rank.worker);
    LoseRanks(worker_id, {{name, attempt, rank.rank}},
              {.failure_class = ham::v1::HANG,
               .reason = ham::v1::FailureClass_Name(ham::v1::HANG),
               .message = verdict->message,
               .actor = kCoordinator},
              false);
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
    if (!worker.connected) GiveUpLostRanks(place.worker_id);
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
  WorkerState& worker = TouchWorker(worker_id);
  auto& failures = worker.failures;
  std::erase_if(failures, [&](const auto& failure) { return now_.steady - failure.first > options_.exclusion_window; });
  failures.emplace_back(now_.steady, job);
  const bool one_job = std::all_of(failures.begin(), failures.end(), [&](const auto& f) { return f.second == job; });
  if (one_job || failures.size() < static_cast<size_t>(options_.exclusion_failures)) return;
  const size_t count = failures.size();
  failures.clear();
  worker.excluded_until = now_.steady + options_.exclusion_time;
  globals_.exclusion_check_at = std::min(globals_.exclusion_check_at, worker.excluded_until);
  Note(jobs_.at(job), "WORKER_EXCLUDED",
       absl::StrCat("Worker ", worker.row.name, " gets no ranks for ", absl::FormatDuration(options_.exclusion_time),
                    ", or until it is started anew: ", count, " attempts of several jobs failed by its ranks."),
       kCoordinator);
}

void Coordinator::Impl::Absolve(const std::string& worker_id) {
  if (!workers_.at(worker_id).failures.empty()) TouchWorker(worker_id).failures.clear();
}

void Coordinator::Impl::EndExclusions() {
  if (now_.steady < globals_.exclusion_check_at) return;
  globals_.exclusion_check_at = absl::InfiniteDuration();
  globals_.schedule_due = true;
  for (const auto& [id, worker] : workers_) {
    if (worker.excluded_until <= now_.steady) continue;
    globals_.exclusion_check_at = std::min(globals_.exclusion_check_at, worker.excluded_until);
  }
}

}  // namespace ham::server
