// Workers: registrations, beats, leases.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/utf8.h"
#include "server/coordinator_impl.h"

namespace ham::server {

using ham::v1::Job;
using ham::v1::ObservedRank;

namespace {

constexpr size_t kMostProblemBytes = 500;

std::set<RankKeyView> KeysOf(const std::vector<ObservedRank>& ranks) {
  std::set<RankKeyView> keys;
  for (const ObservedRank& rank : ranks) keys.insert({rank.job(), rank.attempt(), rank.rank()});
  return keys;
}

}  // namespace

absl::Status Coordinator::Impl::Handle(const WorkerRegistered& event) {
  const ham::v1::RegisterWorker& in = event.registration;
  if (const absl::Status status = CheckIncarnation(in); !status.ok()) return status;
  if (const absl::Status status = TakeName(in); !status.ok()) return status;
  WorkerState& worker = TouchWorker(in.worker_id());
  if (!worker.row.name.empty() && worker.row.name != in.worker_name()) worker_by_name_.erase(worker.row.name);
  worker_by_name_[in.worker_name()] = in.worker_id();
  const bool renamed = worker.row.name != in.worker_name();
  worker.row.worker_id = in.worker_id();
  worker.row.name = in.worker_name();
  const bool fresh = worker.row.session == 0 || worker.row.incarnation != in.incarnation();
  if (renamed || fresh) dirty_workers_.insert(in.worker_id());

  auto registration = std::make_shared<Registration>();
  registration->build_id = in.build_id();
  registration->slots.assign(in.slots().begin(), in.slots().end());
  std::sort(registration->slots.begin(), registration->slots.end(),
            [](const auto& a, const auto& b) { return a.index() < b.index(); });
  std::map<int, ham::v1::SlotProblem> problems;
  for (ham::v1::Slot& slot : registration->slots) {
    slot.clear_job();
    if (slot.has_problem()) problems[slot.index()] = slot.problem();
    slot.clear_problem();
  }
  registration->data_sets.assign(in.data_sets().begin(), in.data_sets().end());
  worker.registration = std::move(registration);
  TakeProblems(worker, std::move(problems));
  worker.stream = in.stream();
  worker.connected = true;
  worker.leaving = false;
  worker.connect_time = now_.wall;
  Heard(worker);
  DesiredChanged(worker);  // a new connection is told everything
  globals_.returning = globals_.returning && !AreAllBack();
  globals_.schedule_due = true;

  if (fresh) {
    BeginSession(worker, in);
    // The agent has killed what its older process left: whatever ran there is proven gone.
    std::vector<RankKey> lost;
    for (const auto& [key, facts] : worker.ranks) {
      if (!facts.succeeded) lost.push_back(key);
    }
    LoseRanks(in.worker_id(), lost,
              {.failure_class = ham::v1::WORKER_LOST,
               .reason = "WORKER_LOST",
               .message = absl::StrCat("Worker ", in.worker_name(), " restarted."),
               .actor = in.worker_name()},
              true);
  }
  const std::vector<ObservedRank> observed(in.observed().begin(), in.observed().end());
  for (const ObservedRank& rank : observed) Observe(in.worker_id(), rank, absl::ZeroDuration());
  ObserveAbsence(in.worker_id(), observed, std::nullopt);
  return absl::OkStatus();
}

bool Coordinator::Impl::AreAllBack() const {
  return std::all_of(workers_.begin(), workers_.end(), [](const auto& entry) {
    return entry.second.registration != nullptr || entry.second.unreachable;
  });
}

// Two agents with one worker_id would take each other's ranks for ever, and late words of an older process would bring
// back what the newer one has ended.
absl::Status Coordinator::Impl::CheckIncarnation(const ham::v1::RegisterWorker& registration) const {
  const auto found = workers_.find(registration.worker_id());
  if (found == workers_.end()) return absl::OkStatus();
  const WorkerState& worker = found->second;
  if (worker.row.incarnation == registration.incarnation()) {
    if (registration.stream() == 0 || registration.stream() > worker.stream) return absl::OkStatus();
    return absl::AbortedError(absl::StrCat("stream ", registration.stream(), " of worker ", registration.worker_id(),
                                           " comes after its stream ", worker.stream,
                                           ": what it tells is out of date"));
  }
  const int64_t number = registration.incarnation_number();
  if (number == 0 || number > worker.row.incarnation_number) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("agent ", number, " of worker_id ", registration.worker_id(),
                                         " comes after agent ", worker.row.incarnation_number,
                                         " of it: two agents use copies of one state directory, or an older copy was ",
                                         "restored; give each its own, without worker_id and incarnation"));
}

void Coordinator::Impl::TakeProblems(WorkerState& worker, std::map<int, ham::v1::SlotProblem> problems) {
  if (problems.empty() && worker.problems.empty()) return;
  std::erase_if(problems, [&worker](const auto& entry) {
    const std::vector<ham::v1::Slot>& slots = worker.registration->slots;
    return std::none_of(slots.begin(), slots.end(), [&](const auto& slot) { return slot.index() == entry.first; });
  });
  for (auto& [slot, problem] : problems) {
    problem.set_slot(slot);
    problem.set_message(Shown(problem.message(), kMostProblemBytes));
    globals_.schedule_due = globals_.schedule_due || worker.problems.count(slot) == 0;
  }
  globals_.schedule_due = globals_.schedule_due || problems.size() != worker.problems.size();
  worker.problems = std::move(problems);
}

void Coordinator::Impl::BeginSession(WorkerState& worker, const ham::v1::RegisterWorker& registration) {
  worker.row.incarnation = registration.incarnation();
  worker.row.incarnation_number = registration.incarnation_number();
  worker.row.session = globals_.next_session++;
  worker.stale.clear();
  Absolve(worker.row.worker_id);
  worker.excluded_until = -absl::InfiniteDuration();
  worker.row.excluded = false;
  std::vector<std::string> forgiven;  // pools that had given this worker up
  for (const auto& [name, facts] : facts_) {
    if (facts.losses.count(worker.row.worker_id) != 0) forgiven.push_back(name);
  }
  for (const std::string& name : forgiven) TouchFacts(name).losses.erase(worker.row.worker_id);
  for (const auto& [key, facts] : worker.ranks) {
    for (Placement& place : TouchJob(key.job).gang) {  // succeeded ranks stay, and their records may still come
      if (place.rank == key.rank) place.session = worker.row.session;
    }
    dirty_jobs_.insert(key.job);
  }
}

// Frees the name for this worker_id, or says who has it.
absl::Status Coordinator::Impl::TakeName(const ham::v1::RegisterWorker& registration) {
  const auto holder = worker_by_name_.find(registration.worker_name());
  if (holder == worker_by_name_.end() || holder->second == registration.worker_id()) return absl::OkStatus();
  const WorkerState& other = workers_.at(holder->second);
  const bool in_lease = !other.ranks.empty() && now_.steady < other.heard + options_.lease;
  const bool connected = other.connected && !other.unreachable;
  if (connected || in_lease) {
    return absl::AlreadyExistsError(absl::StrCat("the name ", registration.worker_name(), " belongs to another worker",
                                                 connected ? "" : " whose lease is not over",
                                                 "; start this one with another --name"));
  }
  // Its row stays, for its session; the mark is no letter of a name, so nobody can register it.
  const std::string id = holder->second;
  WorkerState& former = TouchWorker(id);
  worker_by_name_.erase(holder);
  former.row.name = absl::StrCat(former.row.name, "~", id);
  worker_by_name_[former.row.name] = id;
  dirty_workers_.insert(id);
  return absl::OkStatus();
}

void Coordinator::Impl::Heard(WorkerState& worker) {
  if (worker.unreachable) globals_.schedule_due = true;
  worker.heard = now_.steady;
  worker.last_beat_time = now_.wall;
  worker.unreachable = false;
  worker.suspected = false;
  globals_.lease_check_at = std::min(globals_.lease_check_at, worker.heard + options_.lease);
}

absl::Status Coordinator::Impl::Handle(const WorkerBeat& event) {
  const auto found = workers_.find(event.worker_id);
  if (found == workers_.end() || found->second.registration == nullptr || found->second.row.session != event.session) {
    return absl::AbortedError(absl::StrCat("session ", event.session, " of worker ", event.worker_id,
                                           " is not current: connect and register again"));
  }
  WorkerState& worker = TouchWorker(event.worker_id);
  const absl::Duration since_last = std::min(now_.steady - worker.heard, 3 * options_.heartbeat);
  Heard(worker);
  if (!worker.connected) {  // a beat proves a connection, whatever became of another one
    worker.connected = true;
    globals_.schedule_due = true;
  }
  worker.leaving = worker.leaving || event.leaving;
  std::map<int, ham::v1::SlotProblem> problems;
  for (const ham::v1::SlotProblem& problem : event.problems) problems[problem.slot()] = problem;
  TakeProblems(worker, std::move(problems));
  for (const ObservedRank& rank : event.observed) Observe(event.worker_id, rank, since_last);
  if (event.leaving) GiveUpUnstarted(event.worker_id, event.observed);
  ObserveAbsence(event.worker_id, event.observed, event.desired_version);
  JudgeRanksOf(event.worker_id);
  return absl::OkStatus();
}

absl::Status Coordinator::Impl::Handle(const WorkerDisconnected& event) {
  const auto found = workers_.find(event.worker_id);
  if (found == workers_.end() || found->second.row.session != event.session) {
    return absl::AbortedError(
        absl::StrCat("session ", event.session, " of worker ", event.worker_id, " is not current"));
  }
  TouchWorker(event.worker_id).connected = false;
  globals_.schedule_due = true;
  GiveUpLostRanks(event.worker_id);
  return absl::OkStatus();
}

void Coordinator::Impl::Observe(const std::string& worker_id, const ObservedRank& observed, absl::Duration since_last) {
  WorkerState& worker = TouchWorker(worker_id);
  const RankKey key = {observed.job(), observed.attempt(), observed.rank()};
  const auto rank = worker.ranks.find(key);
  if (rank == worker.ranks.end()) {
    if (observed.state() != ObservedRank::EXITED) {
      worker.stale.try_emplace(key);  // keeps the slot when it is known
    } else if (worker.stale.erase(key) != 0) {
      globals_.schedule_due = true;
    }
    return;
  }
  RankFacts& facts = rank->second;
  facts.reported = true;
  facts.pulse.Observe(observed, since_last);
  if (observed.progress().collective_sequence() > facts.collective_sequence) {
    facts.collective_sequence = observed.progress().collective_sequence();
    facts.advance_time = now_.steady - since_last;  // it may have been right after the beat before
  }
  if (observed.state() == ObservedRank::RUNNING) RankRunning(key, worker, facts);
  if (observed.state() == ObservedRank::EXITED) RankExited(key, worker_id, observed.exit());
}

void Coordinator::Impl::GiveUpUnstarted(const std::string& worker_id, const std::vector<ObservedRank>& observed) {
  const std::set<RankKeyView> present = KeysOf(observed);
  const WorkerState& worker = workers_.at(worker_id);
  std::vector<RankKey> lost;
  for (const auto& [key, facts] : worker.ranks) {
    if (!facts.reported && present.count(key) == 0) lost.push_back(key);
  }
  LoseRanks(worker_id, lost,
            {.failure_class = ham::v1::PREEMPTED,
             .reason = ham::v1::FailureClass_Name(ham::v1::PREEMPTED),
             .message = absl::StrCat("Worker ", worker.row.name, " was told to stop before its rank started."),
             .actor = worker.row.name},
            true);
}

void Coordinator::Impl::ObserveAbsence(const std::string& worker_id, const std::vector<ObservedRank>& observed,
                                       std::optional<int64_t> version) {
  WorkerState& worker = TouchWorker(worker_id);
  if (worker.ranks.empty() && worker.stale.empty()) return;
  const std::set<RankKeyView> present = KeysOf(observed);
  // Has the worker seen what was sent as `since`?
  const auto saw = [&version](int64_t since) { return !version || *version >= since; };
  const size_t cleared = std::erase_if(worker.stale, [&](const auto& entry) {
    return present.count(entry.first) == 0 && saw(entry.second.undesired_since);
  });
  if (cleared != 0) globals_.schedule_due = true;
  std::vector<RankKey> lost;
  for (const auto& [key, facts] : worker.ranks) {
    if (present.count(key) != 0 || facts.succeeded) continue;
    const Job::State state = jobs_.at(key.job).state;
    const bool desired = state == Job::STARTING || state == Job::RUNNING;
    const bool known = facts.reported && saw(facts.desired_since);
    if (known || (!desired && saw(worker.desired_version))) lost.push_back(key);
  }
  if (lost.empty()) return;
  LoseRanks(worker_id, lost,
            {.failure_class = ham::v1::WORKER_LOST,
             .reason = "WORKER_LOST",
             .message = absl::StrCat("Worker ", worker.row.name, " no longer has its rank."),
             .actor = worker.row.name,
             .collateral = true},
            true);
}

// ---- leases ------------------------------------------------------------------------------------------------

absl::Status Coordinator::Impl::Handle(const TimerFired&) {
  WakeBackoff();
  EndExclusions();
  GiveUpUnstoppable();
  ExpireLeases();
  return absl::OkStatus();
}

void Coordinator::Impl::WakeBackoff() {
  while (!backoff_.empty() && backoff_.begin()->first <= now_.steady) {
    const std::string name = backoff_.begin()->second;
    backoff_.erase(backoff_.begin());
    TouchFacts(name).not_before = absl::ZeroDuration();
    globals_.schedule_due = true;
  }
}

void Coordinator::Impl::ExpireLeases() {
  if (now_.steady < globals_.lease_check_at) return;
  if (std::exchange(globals_.returning, false)) globals_.schedule_due = true;
  if (SuspectsItself()) globals_.frozen_until = now_.steady + options_.lease;
  absl::Duration next = absl::InfiniteDuration();
  for (auto& [id, current] : workers_) {
    if (current.unreachable && current.ranks.empty()) continue;
    const absl::Duration over = current.heard + options_.lease;
    if (now_.steady < over) {
      next = std::min(next, over);
      continue;
    }
    WorkerState& worker = TouchWorker(id);
    const bool first_look = !std::exchange(worker.unreachable, true);
    globals_.schedule_due = globals_.schedule_due || first_look;
    std::vector<RankKey> lost;
    for (const auto& [key, facts] : worker.ranks) {
      if (facts.succeeded) continue;  // nothing left to lose
      const absl::Duration frozen = std::min(globals_.frozen_until, worker.heard + options_.freeze_limit);
      const absl::Duration until = std::max(frozen, HoldUntil(worker, jobs_.at(key.job)));
      if (now_.steady < until) {
        next = std::min(next, until);
        if (first_look) NoteUnreachable(worker, key);
      } else {
        lost.push_back(key);
      }
    }
    LoseRanks(id, lost,
              {.failure_class = ham::v1::WORKER_LOST,
               .reason = "WORKER_LOST",
               .message = absl::StrCat("Worker ", worker.row.name, " was silent for ",
                                       absl::FormatDuration(options_.lease), "."),
               .actor = kCoordinator},
              false);
  }
  globals_.lease_check_at = next;
}

void Coordinator::Impl::NoteUnreachable(const WorkerState& worker, const RankKey& key) {
  Note(jobs_.at(key.job), "WORKER_UNREACHABLE",
       absl::StrCat("Worker ", worker.row.name, " is silent for ", absl::FormatDuration(options_.lease), "; its rank ",
                    key.rank, " is kept: ",
                    now_.steady < globals_.frozen_until ? "so many workers are silent that the fault may lie here."
                                                        : "its gang still completes collectives."),
       kCoordinator);
}

// True while so many workers that fell silent together stay so that the fault is more likely here. A worker that was
// alone in its silence counts no more once its lease is over: it must not add up with others later.
bool Coordinator::Impl::SuspectsItself() {
  bool due = false;
  size_t alive = 0;
  std::vector<std::string> silent;
  for (const auto& [id, worker] : workers_) {
    if (worker.unreachable && !worker.suspected) continue;
    const absl::Duration silence = now_.steady - worker.heard;
    if (silence <= options_.lease / 2) {
      ++alive;
    } else if (!worker.suspected || silence < options_.freeze_limit) {
      due = due || silence >= options_.lease;
      silent.push_back(id);
    }
  }
  const double bound = std::max(2.0, 0.3 * static_cast<double>(alive + silent.size()));
  const bool suspects = due && static_cast<double>(silent.size()) > bound;
  for (const auto& [id, worker] : workers_) {
    const bool part = suspects && std::binary_search(silent.begin(), silent.end(), id);
    if (part != worker.suspected) TouchWorker(id).suspected = part;
  }
  return suspects;
}

// A gang that still completes collectives needs all of its ranks: as long as another, reachable rank reports that
// since the silence began, the silent worker lives.
absl::Duration Coordinator::Impl::HoldUntil(const WorkerState& worker, const JobRow& row) const {
  absl::Duration until = -absl::InfiniteDuration();
  if (row.state != Job::STARTING && row.state != Job::RUNNING) return until;
  for (const Placement& place : row.gang) {
    const WorkerState& other = workers_.at(place.worker_id);
    if (&other == &worker || other.unreachable) continue;
    const absl::Duration advance = other.ranks.at({row.name, row.attempt, place.rank}).advance_time;
    if (advance > worker.heard) until = std::max(until, advance + options_.lease);
  }
  return until;
}

}  // namespace ham::server
