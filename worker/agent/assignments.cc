#include "worker/agent/assignments.h"

#include <algorithm>
#include <set>
#include <utility>

namespace ham::agent {

using ham::v1::ObservedRank;

RankId IdOf(const ham::v1::Assignment& assignment) {
  return {assignment.job(), assignment.attempt(), assignment.rank()};
}

void Assignments::Desire(const ham::v1::DesiredAssignments& desired, absl::Duration now) {
  std::set<RankId> named;
  for (const ham::v1::Assignment& assignment : desired.assignments()) {
    const RankId id = IdOf(assignment);
    named.insert(id);
    const auto [it, fresh] = ranks_.try_emplace(id);
    it->second.desired = true;
    if (fresh) {
      it->second.assignment = assignment;
    } else {
      SetBlocks(it->second, assignment);
    }
  }
  for (auto it = ranks_.begin(); it != ranks_.end();) {
    Rank& rank = it->second;
    if (named.count(it->first) != 0) {
      ++it;
      continue;
    }
    rank.desired = false;
    if (rank.phase == Phase::kWaiting) {
      it = ranks_.erase(it);
      continue;
    }
    if (rank.alive()) {
      Stop(it->first, rank, now);
      ++it;
      continue;
    }
    LimitFlush(rank, now);
    it = Settle(it, rank.phase == Phase::kExited);
  }
  StartWaiting();
}

void Assignments::SetBlocks(Rank& rank, const ham::v1::Assignment& desired) {
  const auto same = [](const ham::v1::WorkBlock& a, const ham::v1::WorkBlock& b) {
    return a.stage() == b.stage() && std::ranges::equal(a.rows(), b.rows());
  };
  if (std::ranges::equal(rank.assignment.blocks(), desired.blocks(), same)) return;
  *rank.assignment.mutable_blocks() = desired.blocks();
  if (rank.alive() && !rank.stopping) actions_.push_back(GiveWork{IdOf(desired), desired.blocks()});
}

void Assignments::Connected() {
  contact_lost_ = absl::InfiniteDuration();
  orphaned_ = false;
}

void Assignments::Disconnected(absl::Duration now) { contact_lost_ = std::min(contact_lost_, now); }

void Assignments::Progressed(const RankId& id, const ham::v1::Progress& progress) {
  const auto it = ranks_.find(id);
  if (it == ranks_.end() || !it->second.alive()) return;
  Rank& rank = it->second;
  rank.progress = progress;
  const std::string& phase = progress.phase();
  if (rank.phase == Phase::kStarting && (phase == "train" || phase == "evaluate" || phase == "save")) {
    rank.phase = Phase::kRunning;
    rank.reported_state = ObservedRank::RUNNING;
    changed_ = true;
  }
}

void Assignments::Exited(const RankId& id, const ham::v1::RankExit& exit, bool flushed, absl::Duration now) {
  const auto it = ranks_.find(id);
  if (it == ranks_.end() || !it->second.alive()) return;
  Rank& rank = it->second;
  rank.phase = Phase::kFlushing;
  rank.exit = exit;
  if (rank.stopping && !exit.success()) {
    // How it died says nothing about the trainer.
    rank.exit.set_failure_class(ham::v1::PREEMPTED);
    rank.exit.set_message(shutdown_ ? "the worker was told to stop" : "the worker stopped this rank");
  }
  rank.untold = !rank.stopping && !exit.success();
  if (!rank.exit.success() || !rank.desired || shutdown_) LimitFlush(rank, now);
  Settle(it, flushed || rank.fenced);
  StartWaiting();
}

void Assignments::Flushed(const RankId& id) {
  const auto it = ranks_.find(id);
  if (it != ranks_.end() && it->second.phase == Phase::kFlushing) Settle(it, true);
}

void Assignments::Told(int64_t exits) {
  for (auto it = ranks_.begin(); it != ranks_.end();) {
    const bool left = it->second.phase == Phase::kExited && it->second.exit_number <= exits;
    it = left && std::exchange(it->second.untold, false) ? Settle(it, true) : std::next(it);
  }
}

void Assignments::Fenced(const RankId& id, absl::Duration now) {
  const auto it = ranks_.find(id);
  if (it == ranks_.end()) return;
  Rank& rank = it->second;
  rank.fenced = true;
  if (rank.alive()) {
    Stop(id, rank, now);
  } else if (rank.phase == Phase::kFlushing) {
    Settle(it, true);
  }
}

void Assignments::Shutdown(absl::Duration now) {
  if (std::exchange(shutdown_, true)) return;
  StopAll(now);
  for (auto it = ranks_.begin(); it != ranks_.end();) {
    if (it->second.phase == Phase::kWaiting) {
      it = ranks_.erase(it);
      continue;
    }
    if (it->second.phase == Phase::kFlushing) LimitFlush(it->second, now);
    ++it;
  }
}

void Assignments::KillNow() {
  for (auto& [id, rank] : ranks_) {
    if (rank.alive() && rank.stopping && !std::exchange(rank.killed, true)) actions_.push_back(KillRank{id});
  }
}

void Assignments::Abandon(absl::Duration now) {
  for (auto it = ranks_.begin(); it != ranks_.end();) {
    Rank& rank = it->second;
    rank.desired = false;
    rank.fenced = true;
    rank.untold = false;
    if (rank.alive()) {
      Stop(it->first, rank, now);
      ++it;
    } else if (rank.phase == Phase::kWaiting) {
      it = ranks_.erase(it);
    } else {
      it = Settle(it, true);
    }
  }
}

void Assignments::Tick(absl::Duration now) {
  if (now >= contact_lost_ + options_.orphan_limit) {
    orphaned_ = true;
    StopAll(now);
  }
  for (auto it = ranks_.begin(); it != ranks_.end();) {
    Rank& rank = it->second;
    if (rank.alive() && now >= rank.kill_at && !std::exchange(rank.killed, true)) {
      actions_.push_back(KillRank{it->first});
    }
    const bool give_up = rank.phase == Phase::kFlushing && now >= rank.give_up_at;
    it = give_up ? Settle(it, true) : std::next(it);
  }
}

void Assignments::Stop(const RankId& id, Rank& rank, absl::Duration now) {
  if (std::exchange(rank.stopping, true)) return;
  rank.kill_at = now + options_.terminate_grace;
  actions_.push_back(TerminateRank{id});
}

void Assignments::StopAll(absl::Duration now) {
  for (auto& [id, rank] : ranks_) {
    if (rank.alive()) Stop(id, rank, now);
  }
}

void Assignments::LimitFlush(Rank& rank, absl::Duration now) {
  rank.give_up_at = std::min(rank.give_up_at, now + (shutdown_ ? options_.shutdown_flush : options_.flush_limit));
}

Assignments::Ranks::iterator Assignments::Settle(Ranks::iterator it, bool flushed) {
  Rank& rank = it->second;
  if (!flushed) return std::next(it);
  if (rank.phase == Phase::kFlushing) {
    rank.phase = Phase::kExited;
    rank.exit_number = ++exits_;
    changed_ = true;
  }
  if (rank.desired || rank.untold) return std::next(it);
  actions_.push_back(ForgetRank{it->first});
  changed_ = true;
  return ranks_.erase(it);
}

void Assignments::StartWaiting() {
  if (shutdown_ || orphaned_) return;
  std::set<int> busy;
  for (const auto& [id, rank] : ranks_) {
    if (rank.alive()) busy.insert(rank.assignment.slot());
  }
  for (auto& [id, rank] : ranks_) {
    if (rank.phase != Phase::kWaiting || !busy.insert(rank.assignment.slot()).second) continue;
    rank.phase = Phase::kStarting;
    actions_.push_back(StartRank{rank.assignment});
    changed_ = true;
  }
}

std::vector<Action> Assignments::TakeActions() { return std::exchange(actions_, {}); }

bool Assignments::TakeChanged() { return std::exchange(changed_, false); }

absl::Duration Assignments::NextTimer() const {
  absl::Duration next = absl::InfiniteDuration();
  for (const auto& [id, rank] : ranks_) {
    if (rank.alive() && !rank.killed) next = std::min(next, rank.kill_at);
    if (rank.phase == Phase::kFlushing) next = std::min(next, rank.give_up_at);
    if (rank.alive() && !rank.stopping) next = std::min(next, contact_lost_ + options_.orphan_limit);
  }
  return next;
}

std::vector<ObservedRank> Assignments::Observed() const {
  std::vector<ObservedRank> observed;
  for (const auto& [id, rank] : ranks_) {
    if (rank.phase == Phase::kWaiting) continue;
    ObservedRank& out = observed.emplace_back();
    out.set_job(id.job);
    out.set_attempt(id.attempt);
    out.set_rank(id.rank);
    out.set_state(rank.phase == Phase::kExited ? ObservedRank::EXITED : rank.reported_state);
    *out.mutable_progress() = rank.progress;
    if (rank.phase == Phase::kExited) *out.mutable_exit() = rank.exit;
  }
  return observed;
}

bool Assignments::Settled() const {
  return std::all_of(ranks_.begin(), ranks_.end(), [](const auto& entry) {
    return entry.second.phase == Phase::kExited || entry.second.phase == Phase::kWaiting;
  });
}

bool Assignments::has_processes() const {
  return std::any_of(ranks_.begin(), ranks_.end(), [](const auto& entry) { return entry.second.alive(); });
}

}  // namespace ham::agent
