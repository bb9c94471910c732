#include "tests/simulation/promises.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/job_state.h"

namespace ham::simulation {

using ham::v1::Job;
using server::JobRow;
using server::Placement;

namespace {

bool IsActive(Job::State state) { return state == Job::STARTING || state == Job::RUNNING; }

bool SameGang(const std::vector<Placement>& a, const std::vector<Placement>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Placement& x, const Placement& y) {
    return x.rank == y.rank && x.worker_id == y.worker_id && x.session == y.session && x.slot == y.slot &&
           x.succeeded == y.succeeded;
  });
}

bool SameRow(const JobRow& a, const JobRow& b) {
  const auto iteration = [](const JobRow& row) { return row.checkpoint ? row.checkpoint->iteration() : -1; };
  return a.state == b.state && a.attempt == b.attempt && a.failed_attempts == b.failed_attempts &&
         a.failure_class == b.failure_class && a.next_rank == b.next_rank && iteration(a) == iteration(b) &&
         a.state_reason == b.state_reason && a.state_message == b.state_message && a.record_digest == b.record_digest &&
         a.data_digest == b.data_digest && a.build_id == b.build_id && a.create_time == b.create_time &&
         a.start_time == b.start_time && a.end_time == b.end_time && a.submit_index == b.submit_index &&
         a.older_checkpoints.size() == b.older_checkpoints.size() && SameGang(a.gang, b.gang);
}

const Placement* FindRank(const std::vector<Placement>& gang, int rank) {
  for (const Placement& place : gang) {
    if (place.rank == rank) return &place;
  }
  return nullptr;
}

}  // namespace

std::string Violation::ToString() const { return absl::StrCat("event ", event, ": ", promise, ": ", detail); }

Promises::Promises(const server::CoordinatorOptions& options, const Truth* truth, Coverage* coverage)
    : options_(options), truth_(truth), coverage_(coverage) {}

void Promises::Check(bool condition, const char* promise, const std::string& detail) {
  if (!condition) violations_.push_back({events_, promise, detail});
}

Promises::Tracked& Promises::Touch(const std::string& job) {
  const auto [undo, first] = undo_.try_emplace(job);
  const auto found = jobs_.find(job);
  if (found == jobs_.end()) return jobs_[job];
  if (first) undo->second = found->second;
  return found->second;
}

// ---- a batch -----------------------------------------------------------------------------------------------

void Promises::Started(absl::Duration now) {
  term_start_ = timers_from_ = now_ = now;
  frozen_until_ = absl::ZeroDuration();
  fresh_ = undo_fresh_ = true;
  heard_.clear();
  standstills_.clear();
  problems_.clear();
  collectives_.clear();
  overdue_.clear();
  for (const std::string& name : open_) {  // waits start anew, in full
    Tracked& job = jobs_.at(name);
    const JobRow& row = job.row;
    job.start_checkpoint = row.checkpoint;  // a gang that runs needs none, another one starts anew
    job.stop_from = now;
    job.streak = row.failed_attempts;
    job.last_failure = row.failed_attempts > 0 ? now : -absl::InfiniteDuration();
    const bool waits = row.state == Job::RECOVERING || (row.state == Job::QUEUED && row.state_reason == "BACKOFF");
    job.not_before = waits && job.streak >= 2 ? now + 0.8 * Backoff(job.streak) : absl::ZeroDuration();
  }
}

void Promises::Applied(const server::Coordinator& core, const server::Event& event, const absl::Status& status,
                       absl::Duration now, absl::Duration steady) {
  ++events_;
  now_ = now;
  steady_ = steady;
  const server::Effects& pending = core.pending();
  if (!status.ok()) {
    Check(fresh_ || pending.events.size() == log_taken_, "a refused event changes nothing", status.ToString());
    const std::string unknown = coverage_->CountRefusal(event, status);
    Check(unknown.empty(), "refusals are those of the contract", unknown);
  } else {
    Hear(event);
  }
  CheckAnswer(core, event, status);
  if (std::holds_alternative<server::TimerFired>(event)) {
    frozen_until_ = now + (core.FrozenUntil() - steady);
    known_workers_ = CountWorkers();
  }
  kills_.clear();
  hangs_.clear();
  stepped_.clear();
  if (const auto* work = std::get_if<server::WorkFinished>(&event); work != nullptr && open_.count(work->job) != 0) {
    stepped_ = work->job;
    if (jobs_.at(work->job).row.failed_attempts != 0) Touch(work->job).streak = 0;
  }
  for (; log_taken_ < pending.events.size(); ++log_taken_) TakeLog(core, pending.events[log_taken_], event);
  for (const auto& [name, row] : pending.jobs) {
    Tracked& job = Touch(name);
    if (SameRow(job.row, row)) continue;
    CheckChange(job, row, event);
    job.row = row;
    if (IsFinal(row.state)) {
      open_.erase(name);
    } else {
      open_.insert(name);
    }
  }
  CheckWorkers(pending);
  if (const auto* beat = std::get_if<server::WorkerBeat>(&event); beat != nullptr && status.ok()) {
    CheckStuckAreFound(core, *beat);
  }
  for (const std::string& sentence : core.CheckInvariants()) Check(false, "invariants of the core", sentence);
  fresh_ = false;
}

void Promises::Committed(const server::Coordinator& core) {
  for (const std::string& name : open_) {
    const JobRow* row = core.FindJob(name);
    Check(row != nullptr && SameRow(*row, jobs_.at(name).row), "all that changes is written", name);
  }
  BeginBatch();
}

void Promises::BeginBatch() {
  undo_.clear();
  undo_heard_.clear();
  undo_workers_.clear();
  undo_fresh_ = fresh_;
  log_taken_ = 0;
}

void Promises::RolledBack() {
  for (auto& [name, job] : undo_) {
    if (job) {
      jobs_[name] = *std::move(job);
    } else {
      jobs_.erase(name);
    }
    const auto found = jobs_.find(name);
    if (found == jobs_.end() || IsFinal(found->second.row.state)) {
      open_.erase(name);
    } else {
      open_.insert(name);
    }
  }
  for (auto undo = undo_heard_.rbegin(); undo != undo_heard_.rend(); ++undo) {
    if (undo->second) {
      heard_[undo->first] = *undo->second;
    } else {
      heard_.erase(undo->first);
    }
  }
  for (auto& [id, row] : undo_workers_) {
    if (row) {
      workers_[id] = *std::move(row);
    } else {
      workers_.erase(id);
    }
  }
  standstills_.clear();  // shorter than they are: no wrong alarm
  overdue_.clear();
  problems_.clear();  // as they will be told again
  fresh_ = undo_fresh_;
  BeginBatch();
}

void Promises::Acknowledged(const server::Event& event) {
  if (const auto* submit = std::get_if<server::SubmitJob>(&event)) acknowledged_.insert(submit->job.name);
  if (const auto* commit = std::get_if<server::CheckpointCommitted>(&event)) {
    const auto& checkpoint = jobs_.at(commit->job).row.checkpoint;  // may have been found damaged since
    int64_t& newest = acknowledged_checkpoints_[commit->job];
    if (checkpoint) newest = std::max(newest, std::min(commit->checkpoint.iteration(), checkpoint->iteration()));
  }
  if (const auto* cancel = std::get_if<server::CancelJob>(&event)) {
    const Job::State state = jobs_.at(cancel->job).row.state;
    Check(state == Job::CANCELLING || state == Job::CANCELLED || state == Job::SUCCEEDED,
          "an acknowledged cancellation holds", absl::StrCat(cancel->job, " is ", Job::State_Name(state)));
  }
}

void Promises::CheckNothingLost(const server::Coordinator& core) {
  for (const std::string& name : acknowledged_) {
    Check(core.FindJob(name) != nullptr, "no acknowledged job is lost", name);
  }
}

// ---- answers -----------------------------------------------------------------------------------------------

void Promises::Hear(const server::Event& event) {
  const auto note = [this](const std::string& id) {
    const auto found = heard_.find(id);
    undo_heard_.emplace_back(id, found == heard_.end() ? std::nullopt : std::optional(found->second));
    heard_[id] = now_;
  };
  if (const auto* beat = std::get_if<server::WorkerBeat>(&event)) {
    HearRanks(*beat);
    std::set<int>& problems = problems_[beat->worker_id];
    problems.clear();
    for (const ham::v1::SlotProblem& problem : beat->problems) problems.insert(problem.slot());
    note(beat->worker_id);
  } else if (const auto* gone = std::get_if<server::WorkerDisconnected>(&event)) {
    standstills_.erase(gone->worker_id);
  } else if (const auto* in = std::get_if<server::WorkerRegistered>(&event)) {
    std::set<int>& problems = problems_[in->registration.worker_id()];
    problems.clear();
    for (const ham::v1::Slot& slot : in->registration.slots()) {
      if (slot.has_problem()) problems.insert(slot.index());
    }
    for (const ham::v1::ObservedRank& rank : in->registration.observed()) {
      TellsMore({rank.job(), rank.attempt(), rank.rank()}, rank.progress().collective_sequence());
    }
    note(in->registration.worker_id());
  } else if (const auto* cancel = std::get_if<server::CancelJob>(&event)) {
    cancel_requested_.insert(cancel->job);
  }
}

void Promises::HearRanks(const server::WorkerBeat& beat) {
  const auto heard = heard_.find(beat.worker_id);
  const absl::Duration since = heard == heard_.end() ? absl::ZeroDuration() : now_ - heard->second;
  std::map<RankId, Standstill> old = std::exchange(standstills_[beat.worker_id], {});
  for (const ham::v1::ObservedRank& rank : beat.observed) {
    if (rank.state() != ham::v1::ObservedRank::RUNNING) continue;
    const ham::v1::Progress& progress = rank.progress();
    const RankId id = {rank.job(), rank.attempt(), rank.rank()};
    Standstill& now = standstills_[beat.worker_id][id];
    now = {.tick = progress.tick(), .begun = progress.collective_begun(), .sequence = progress.collective_sequence()};
    const auto before = old.find(id);
    const bool same = before != old.end() && now.sequence <= before->second.sequence;
    const bool advances = !same && TellsMore(id, now.sequence);
    if (before == old.end()) continue;
    const Standstill& last = before->second;
    now.advanced = advances ? now_ : last.advanced;
    if (last.tick == now.tick && last.begun == now.begun && last.sequence == now.sequence) {
      now.time = last.time + std::min(since, 3 * options_.heartbeat);
      now.steps = last.steps;
    } else if (last.works() && now.works()) {
      now.steps = last.steps + 1;
    }
  }
}

// Late words repeat, also after a disconnection, what was told before: that is no advance.
bool Promises::TellsMore(const RankId& rank, int64_t collectives) {
  int64_t& most = collectives_.try_emplace(rank, -1).first->second;
  const bool more = most >= 0 && collectives > most;
  most = std::max(most, collectives);
  return more;
}

void Promises::CheckStuckAreFound(const server::Coordinator& core, const server::WorkerBeat& beat) {
  for (const auto& [id, still] : standstills_[beat.worker_id]) {
    if (still.time < options_.hang.least || !MustBeFound(core, id, still)) {
      if (!overdue_.empty()) overdue_.erase(id);
      continue;
    }
    // A gang is looked at once a heartbeat.
    const absl::Duration since = overdue_.try_emplace(id, now_).first->second;
    const auto& [job, attempt, rank] = id;
    Check(now_ - since < options_.heartbeat, "who is stuck is found in time",
          absl::StrCat(job, " attempt ", attempt, " rank ", rank, " says nothing new for ",
                       absl::FormatDuration(still.time)));
  }
}

// A rank whose steps took a second each and that nobody is behind; or all, of which somebody is to blame.
bool Promises::MustBeFound(const server::Coordinator& core, const RankId& id, const Standstill& still) const {
  constexpr int kStepsToLearn = 8;
  const auto& [job, attempt, rank] = id;
  const JobRow* current = core.FindJob(job);
  if (current == nullptr || current->attempt != attempt) return false;
  const JobRow& row = *current;
  if (!IsActive(row.state) || FindRank(row.gang, rank) == nullptr) return false;
  const absl::Duration slack = 4 * options_.heartbeat;
  bool nobody_behind = true, all_still = true;
  for (const Placement& place : row.gang) {
    if (place.succeeded || (row.pool && place.rank != rank)) continue;  // a pool's ranks work by themselves
    const auto ranks = standstills_.find(place.worker_id);
    if (ranks == standstills_.end()) return false;
    const auto found = ranks->second.find({row.name, row.attempt, place.rank});
    if (found == ranks->second.end()) return false;
    nobody_behind = nobody_behind && found->second.begun >= still.begun;
    const bool heard = now_ - heard_.at(place.worker_id) <= 3 * options_.heartbeat;
    all_still = all_still && heard && found->second.time >= options_.hang.unknown + slack;
  }
  const bool learned = still.works() && still.steps >= kStepsToLearn;
  return all_still || (nobody_behind && learned && still.time >= options_.hang.least + slack);
}

void Promises::CheckAnswer(const server::Coordinator& core, const server::Event& event, const absl::Status& status) {
  if (const auto* beat = std::get_if<server::WorkerBeat>(&event)) {
    const auto worker = core.FindWorker(beat->worker_id);
    const bool current = worker && worker->session == beat->session && heard_.count(beat->worker_id) != 0;
    Check(status.ok() == current, "beats of the current session are taken, no others", beat->worker_id);
  } else if (const auto* commit = std::get_if<server::CheckpointCommitted>(&event)) {
    const JobRow* row = core.FindJob(commit->job);
    const bool placed = row != nullptr && std::any_of(row->gang.begin(), row->gang.end(), [&](const Placement& place) {
                          return place.session == commit->session;
                        });
    const bool current = placed && row->attempt == commit->checkpoint.attempt();
    Check(current ? status.ok() || absl::IsFailedPrecondition(status) : absl::IsAborted(status),
          "checkpoints of the current attempt are taken, no others", commit->job);
    Check(!absl::IsFailedPrecondition(status) ||
              (row->checkpoint && row->checkpoint->iteration() >= commit->checkpoint.iteration()),
          "a newer checkpoint is taken", commit->job);
  } else if (const auto* cancel = std::get_if<server::CancelJob>(&event); cancel != nullptr && status.ok()) {
    const Job::State state = core.FindJob(cancel->job)->state;
    Check(state == Job::CANCELLING || state == Job::CANCELLED || state == Job::SUCCEEDED,
          "a cancellation takes effect at once", cancel->job);
  }
}

// ---- the log -----------------------------------------------------------------------------------------------

void Promises::TakeLog(const server::Coordinator& core, const server::EventRow& row, const server::Event& event) {
  const Job::State from = row.event.from_state();
  const Job::State to = row.event.to_state();
  const std::string& reason = row.event.reason();
  Tracked& job = Touch(row.job);
  Check(job.logged == from, "a log has no gap", absl::StrCat(row.job, " before ", reason));
  Check(!reason.empty() && !row.event.message().empty() && !row.event.actor().empty(), "each event has a cause",
        row.job);
  Check(!IsFinal(from), "nothing happens after the end", absl::StrCat(row.job, " ", reason));
  job.logged = to;
  if (from != to && (to == Job::RECOVERING || to == Job::CANCELLING)) job.stop_from = now_;
  for (const char c : absl::StrCat(row.job, " ", row.attempt, " ", to, " ", reason)) {
    log_hash_ = (log_hash_ ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  coverage_->Note(absl::StrCat("event ", reason));
  if (from == to && reason == "HANG") hangs_.insert(row.job);  // a rank of a pool
  if (from != to && from != Job::STATE_UNSPECIFIED) {
    coverage_->CountArrow(from, to);
    Check(IsArrow(from, to), "states go along their arrows",
          absl::StrCat(row.job, " from ", Job::State_Name(from), " to ", Job::State_Name(to)));
  }
  if (IsActive(from) && (to == Job::RECOVERING || to == Job::QUEUED || to == Job::FAILED)) {
    if (core.FindJob(row.job)->failure_class == ham::v1::HANG) hangs_.insert(row.job);
    CheckKill(job, row, event);
    CountFailure(core, job, row);
  }
  // It turned out that nobody was to blame.
  if (from == Job::RECOVERING && to == from && reason == "PREEMPTED") --kills_[row.job];
  if (reason == "CHECKPOINT_COMMITTED") {
    job.streak = 0;
    stepped_ = row.job;
  }
  if (reason == "GANG_PLACED") {
    Check(row.attempt == ++job.placed, "no attempt is left out", row.job);
    Check(now_ >= job.not_before, "a job that failed waits",
          absl::StrCat(row.job, " is ", absl::FormatDuration(job.not_before - now_), " early"));
    job.not_before = absl::ZeroDuration();
    job.start_checkpoint = core.FindJob(row.job)->checkpoint;
    CheckNobodyOvertaken(core, *core.FindJob(row.job));
  }
}

// The first of those that wait for slots gets them, or nobody behind it.
void Promises::CheckNobodyOvertaken(const server::Coordinator& core, const JobRow& started) {
  for (const std::string& name : open_) {
    const JobRow& row = *core.FindJob(name);
    const bool waits = row.state == Job::QUEUED &&
                       (row.state_reason == "WAITING_FOR_SLOTS" || row.state_reason == "BEHIND_EARLIER_JOB");
    Check(!waits || row.submit_index > started.submit_index, "nobody is overtaken",
          absl::StrCat(started.name, " starts before ", name));
  }
}

// Somebody must be gone, or silent for too long.
void Promises::CheckKill(const Tracked& job, const server::EventRow& row, const server::Event& event) {
  const auto* broken = std::get_if<server::JobBroken>(&event);
  if (broken != nullptr && broken->job == row.job) return;
  if (row.event.reason() == "COORDINATOR_RESTARTED") {
    return Check(fresh_ && job.row.state == Job::STARTING && !job.row.pool, "only what comes up starts anew", row.job);
  }
  if (const auto* damaged = std::get_if<server::CheckpointDamaged>(&event); damaged != nullptr) {
    return Check(job.row.state == Job::STARTING && job.start_checkpoint &&
                     job.start_checkpoint->manifest_digest() == damaged->manifest_digest,
                 "only who needs a damaged checkpoint starts anew", row.job);
  }
  if (job.row.attempt != row.attempt) return;  // it began with this event
  const bool timer = std::holds_alternative<server::TimerFired>(event);
  if (hangs_.count(row.job) != 0 && truth_->WasStuck(row.job, row.attempt)) return;
  const bool excused = std::any_of(job.row.gang.begin(), job.row.gang.end(), [&](const Placement& place) {
    return truth_->IsGone(row.job, row.attempt, place) || (timer && IsSilent(place.worker_id));
  });
  if (excused) return;
  std::string gang;
  for (const Placement& place : job.row.gang) {
    absl::StrAppend(&gang, "; rank ", place.rank, " on ", place.worker_id, ", silent for ",
                    absl::FormatDuration(Silence(place.worker_id)));
  }
  Check(false, "no healthy gang is killed",
        absl::StrCat(row.job, " attempt ", row.attempt, ": ", row.event.message(), gang));
}

void Promises::CountFailure(const server::Coordinator& core, Tracked& job, const server::EventRow& row) {
  const std::string& reason = row.event.reason();
  if (reason == "COORDINATOR_RESTARTED" || reason == "CHECKPOINT_DAMAGED") return;
  if (reason != "PREEMPTED") ++kills_[row.job];
  job.streak = now_ - job.last_failure <= options_.backoff_window ? job.streak + 1 : 1;
  job.last_failure = now_;
  job.not_before = job.streak >= 2 ? now_ + 0.8 * Backoff(job.streak) : absl::ZeroDuration();
  if (core.FindJob(row.job)->state_reason != "BACKOFF") return;
  Check(core.NextTimer() <= steady_ + 1.2 * Backoff(job.streak) + absl::Milliseconds(1), "a wait ends in time",
        absl::StrCat(row.job, " after ", job.streak, " failures"));
}

absl::Duration Promises::Backoff(int failures) const {
  absl::Duration wait = options_.backoff_initial;
  for (int i = 2; i < failures && wait < options_.backoff_cap; ++i) wait *= 2;
  return std::min(wait, options_.backoff_cap);
}

// ---- rows --------------------------------------------------------------------------------------------------

void Promises::CheckChange(const Tracked& job, const JobRow& row, const server::Event& event) {
  CheckRow(row);
  Check(job.logged == row.state, "no change without an event", row.name);
  const JobRow& old = job.row;
  if (old.name.empty()) return;
  Check(!IsFinal(old.state), "nothing changes after the end", row.name);
  Check(row.attempt >= old.attempt, "attempts only grow", row.name);
  CheckCheckpoint(old, row, event);
  CheckPlaces(old, row);
  const auto kills = kills_.find(row.name);
  const int counted = kills == kills_.end() ? 0 : kills->second;
  const bool step = stepped_ == row.name;
  Check(row.failed_attempts == (step ? 0 : std::max(0, old.failed_attempts + counted)), "failures are counted once",
        absl::StrCat(row.name, " has ", row.failed_attempts, " of ", row.max_attempts, " after ", old.failed_attempts));
  const bool spent = row.failure_class == ham::v1::USER || row.failed_attempts >= row.max_attempts;
  if (row.state == Job::FAILED) {
    Check(spent, "a job fails only when its attempts are spent", row.name);
  } else if (row.state == Job::QUEUED || IsActive(row.state)) {
    Check(!spent, "spent attempts end a job", row.name);
  }
  CheckLost(job, row, event);
  if (!row.pool || row.attempt != old.attempt) return;
  for (const Placement& place : row.gang) {
    const Placement* was = FindRank(old.gang, place.rank);
    Check(place.rank >= old.next_rank || (was != nullptr && was->worker_id == place.worker_id),
          "a pool gives a rank out once", absl::StrCat(row.name, " rank ", place.rank));
  }
}

void Promises::CheckCheckpoint(const JobRow& old, const JobRow& row, const server::Event& event) {
  const auto iteration = [](const JobRow& of) { return of.checkpoint ? of.checkpoint->iteration() : 0; };
  int64_t& acknowledged = acknowledged_checkpoints_[row.name];
  const auto* damaged = std::get_if<server::CheckpointDamaged>(&event);
  const bool gone = damaged != nullptr && damaged->job == row.name && old.checkpoint &&
                    old.checkpoint->manifest_digest() == damaged->manifest_digest;
  if (gone) acknowledged = old.older_checkpoints.empty() ? 0 : old.older_checkpoints[0].iteration();
  Check(iteration(row) >= (gone ? acknowledged : iteration(old)), "a checkpoint never goes back", row.name);
  Check(iteration(row) >= acknowledged, "no acknowledged checkpoint is lost", row.name);
  Check(row.older_checkpoints.size() < static_cast<size_t>(options_.kept_checkpoints), "few checkpoints are kept",
        row.name);
  for (const ham::v1::Checkpoint& older : row.older_checkpoints) {
    Check(older.iteration() < iteration(row), "older checkpoints are older", row.name);
  }
}

void Promises::CheckPlaces(const JobRow& old, const JobRow& row) {
  for (const Placement& place : row.gang) {
    if (row.attempt == old.attempt && FindRank(old.gang, place.rank) != nullptr) continue;
    const auto problems = problems_.find(place.worker_id);
    Check(problems == problems_.end() || problems->second.count(place.slot) == 0, "a slot with a problem gets no ranks",
          absl::StrCat(row.name, " rank ", place.rank, " on ", place.worker_id));
  }
}

// Ranks that the job had before this event and has no more.
void Promises::CheckLost(const Tracked& job, const JobRow& row, const server::Event& event) {
  if (row.state == Job::SUCCEEDED) return;
  const JobRow& old = job.row;
  const bool timer = std::holds_alternative<server::TimerFired>(event);
  for (const Placement& place : old.gang) {
    const bool kept = row.attempt == old.attempt && FindRank(row.gang, place.rank) != nullptr;
    if (kept || place.succeeded) continue;
    if (timer) {
      const bool stopped = !IsActive(old.state) && now_ >= job.stop_from + options_.stop_limit;
      if (!stopped) CheckSilence(place);
      Check(!IsActive(old.state) || !OthersAdvance(old, place), "a gang that advances loses nobody",
            absl::StrCat(row.name, " rank ", place.rank, " on ", place.worker_id));
    } else if (hangs_.count(row.name) == 0) {
      Check(!truth_->IsAlive(row.name, old.attempt, place), "a rank is given up only when it is gone",
            absl::StrCat(row.name, " attempt ", old.attempt, " rank ", place.rank, " on ", place.worker_id));
    }
    if (!row.pool || !IsActive(old.state) || !IsActive(row.state)) continue;
    Check(truth_->IsGone(row.name, old.attempt, place) || (timer && IsSilent(place.worker_id)) ||
              (hangs_.count(row.name) != 0 && truth_->WasStuck(row.name, old.attempt)),
          "no healthy rank of a pool is lost", absl::StrCat(row.name, " rank ", place.rank));
  }
}

absl::Duration Promises::Silence(const std::string& worker_id) const {
  const auto heard = heard_.find(worker_id);
  return heard != heard_.end() ? now_ - heard->second : now_ - term_start_ - 3 * options_.lease;
}

bool Promises::IsSilent(const std::string& worker_id) const {
  return Silence(worker_id) >= options_.lease && !truth_->IsShielded(worker_id);
}

// Heard of in this term, or with ranks since before it.
size_t Promises::CountWorkers() const {
  std::set<std::string> workers;
  for (const auto& [id, time] : heard_) workers.insert(id);
  for (const std::string& name : open_) {
    for (const Placement& place : jobs_.at(name).row.gang) workers.insert(place.worker_id);
  }
  return workers.size();
}

// A lease has ended: with reason?
void Promises::CheckSilence(const Placement& place) {
  coverage_->Note("ranks whose lease ended");
  const std::string& id = place.worker_id;
  Check(Silence(id) >= options_.lease && now_ >= timers_from_, "a lease is not cut short", id);
  Check(!truth_->IsShielded(id), "a short outage costs nobody a rank", id);
  if (Silence(id) >= options_.freeze_limit) return;  // its agent has stopped the rank itself
  Check(frozen_until_ <= now_, "no lease ends in a freeze", id);
  const auto heard = heard_.find(id);
  if (heard == heard_.end()) return;
  int together = 0;
  for (const auto& [other, time] : heard_) {
    const bool apart = absl::AbsDuration(time - heard->second) >= options_.lease / 3;
    together += now_ - time >= options_.lease && !apart ? 1 : 0;
  }
  // Of 30 %, with room for workers that come and go meanwhile.
  Check(together <= std::max(2.0, 0.5 * static_cast<double>(known_workers_)),
        "a lease does not end with too many others", absl::StrCat(id, " and ", together - 1, " others"));
}

// A rank of it that is heard of has told of a collective since the silence began, less than a lease ago. That may have
// been right after the beat before.
bool Promises::OthersAdvance(const JobRow& row, const Placement& silent) const {
  const auto heard = heard_.find(silent.worker_id);
  const absl::Duration beat = 3 * options_.heartbeat;
  if (row.pool || heard == heard_.end()) return false;
  return std::any_of(row.gang.begin(), row.gang.end(), [&](const Placement& other) {
    const auto ranks = standstills_.find(other.worker_id);
    if (other.worker_id == silent.worker_id || ranks == standstills_.end()) return false;
    const auto found = ranks->second.find({row.name, row.attempt, other.rank});
    if (found == ranks->second.end() || Silence(other.worker_id) >= options_.lease) return false;
    const absl::Duration earliest = found->second.advanced - beat;
    return earliest > heard->second && now_ < earliest + options_.lease;
  });
}

void Promises::CheckRow(const JobRow& row) {
  const size_t world_size = static_cast<size_t>(row.world_size);
  if (IsActive(row.state)) {
    Check(row.pool ? !row.gang.empty() && row.gang.size() <= world_size : row.gang.size() == world_size,
          "a gang is whole", row.name);
  } else if (row.state != Job::RECOVERING && row.state != Job::CANCELLING) {
    Check(row.gang.empty(), "who waits or has ended holds no slot", row.name);
  }
  if (row.state == Job::SUCCEEDED) {
    Check(row.pool ? truth_->IsPoolDone(row.name) && row.record_digest == "r" : truth_->IsGangDone(row),
          "success is that of all ranks", row.name);
  }
  if (row.state == Job::CANCELLED || row.state == Job::CANCELLING) {
    Check(cancel_requested_.count(row.name) != 0, "only who asked for it is cancelled", row.name);
  }
  Check(IsFinal(row.state) == (row.end_time != absl::InfinitePast()), "what has ended has a time of its end", row.name);
  Check(row.state != Job::RUNNING || row.start_time != absl::InfinitePast(), "what runs has a time of its start",
        row.name);
}

void Promises::CheckWorkers(const server::Effects& effects) {
  for (const auto& [id, row] : effects.workers) {
    const auto found = workers_.find(id);
    undo_workers_.try_emplace(id, found == workers_.end() ? std::nullopt : std::optional(found->second));
    server::WorkerRow& old = workers_[id];
    Check(row.session >= old.session, "sessions only grow", id);
    Check((row.incarnation == old.incarnation) == (row.session == old.session), "an incarnation has one session", id);
    old = row;
  }
}

void Promises::CheckDesired(const std::string& worker_id, const std::vector<server::DesiredRank>& desired) {
  for (const server::DesiredRank& rank : desired) {
    const Tracked& job = jobs_.at(rank.job);
    const Placement* place = rank.attempt == job.row.attempt ? FindRank(job.row.gang, rank.rank) : nullptr;
    Check(IsActive(job.row.state) && place != nullptr && place->worker_id == worker_id && place->slot == rank.slot,
          "workers are asked for what is durable", absl::StrCat(rank.job, " rank ", rank.rank, " on ", worker_id));
    const auto iteration = [](const std::optional<ham::v1::Checkpoint>& from) { return from ? from->iteration() : -1; };
    Check(iteration(rank.checkpoint) == iteration(job.start_checkpoint), "all ranks start from one checkpoint",
          rank.job);
  }
}

// ---- the store ---------------------------------------------------------------------------------------------

std::vector<JobRow> Promises::JobRows() const {
  std::vector<JobRow> rows;
  for (const auto& [name, job] : jobs_) rows.push_back(job.row);
  return rows;
}

std::vector<server::WorkerRow> Promises::WorkerRows() const {
  std::vector<server::WorkerRow> rows;
  for (const auto& [id, row] : workers_) rows.push_back(row);
  return rows;
}

const JobRow* Promises::Find(const std::string& job) const {
  const auto found = jobs_.find(job);
  return found == jobs_.end() ? nullptr : &found->second.row;
}

}  // namespace ham::simulation
