// A job's life: submit, cancel, checkpoints, ranks that run, exit or are lost, attempts that fail.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/job_state.h"
#include "proto/utf8.h"
#include "server/coordinator_impl.h"

namespace ham::server {

using ham::v1::Job;

namespace {

std::string DescribeExit(const RankKey& key, const std::string& worker, const ham::v1::RankExit& exit) {
  const std::string who = absl::StrCat("Rank ", key.rank, " on ", worker);
  if (!exit.message().empty()) return absl::StrCat(who, ": ", Shown(exit.message(), kMostMessageBytes));
  if (exit.signal() != 0) return absl::StrCat(who, " was ended by signal ", exit.signal(), ".");
  return absl::StrCat(who, " ended with exit status ", exit.exit_code(), ".");
}

}  // namespace

void Coordinator::Impl::Transition(const std::string& name, Job::State to, const std::string& reason,
                                   const std::string& message, const std::string& actor) {
  JobRow& row = TouchJob(name);
  Require(IsAllowedTransition(row.state, to),
          absl::StrCat(name, " cannot go from ", Job::State_Name(row.state), " to ", Job::State_Name(to)));
  UnindexJob(name);
  AddEvent(row, row.state, to, reason, message, actor);
  if (IsActive(row.state) && !IsActive(to)) pending_.ended_attempts.emplace_back(name, row.attempt);
  row.state = to;
  row.state_reason = reason;
  row.state_message = message;
  if (to == Job::RUNNING && row.start_time == absl::InfinitePast()) row.start_time = now_.wall;
  if (IsFinal(to)) row.end_time = now_.wall;
  dirty_jobs_.insert(name);
  IndexJob(name);
}

void Coordinator::Impl::Note(const JobRow& row, const std::string& reason, const std::string& message,
                             const std::string& actor) {
  AddEvent(row, row.state, row.state, reason, message, actor);
}

void Coordinator::Impl::AddEvent(const JobRow& row, Job::State from, Job::State to, const std::string& reason,
                                 const std::string& message, const std::string& actor) {
  EventRow event{.job = row.name, .attempt = row.attempt, .event = {}, .time = now_.wall};
  event.event.set_from_state(from);
  event.event.set_to_state(to);
  event.event.set_reason(reason);
  event.event.set_message(message);
  event.event.set_actor(actor);
  pending_.events.push_back(std::move(event));
}

void Coordinator::Impl::IndexJob(const std::string& name) {
  const JobRow& row = jobs_.at(name);
  const bool waits = row.state == Job::QUEUED || (row.state == Job::RECOVERING && row.gang.empty());
  const bool grows = row.pool && IsActive(row.state) && row.gang.size() < static_cast<size_t>(row.world_size);
  if (!waits && !grows) return;
  const JobFacts& facts = facts_.at(name);
  queue_[{row.submit_index, name}] = {&row, &facts};
  const absl::Duration not_before = facts.not_before;
  if (not_before > absl::ZeroDuration()) backoff_.insert({not_before, name});
}

void Coordinator::Impl::UnindexJob(const std::string& name) {
  const auto row = jobs_.find(name);
  if (row == jobs_.end()) return;
  queue_.erase({row->second.submit_index, name});
  backoff_.erase({facts_.at(name).not_before, name});
}

absl::Status Coordinator::Impl::Handle(const SubmitJob& event) {
  const std::string& name = event.job.name;
  if (jobs_.count(name) != 0) return absl::AlreadyExistsError(absl::StrCat("job ", name, " exists already"));
  TouchFacts(name);
  JobRow& row = jobs_.at(name);
  row = event.job;
  row.state = Job::QUEUED;
  row.state_reason = "SUBMITTED";
  row.state_message = "Submitted.";
  row.attempt = 0;
  row.gang.clear();
  row.next_rank = 0;
  row.data_digest.clear();
  row.build_id.clear();
  row.record_digest.clear();
  row.failed_attempts = 0;
  row.failure_class = ham::v1::FAILURE_CLASS_UNSPECIFIED;
  row.checkpoint.reset();
  row.older_checkpoints.clear();
  row.create_time = now_.wall;
  row.start_time = row.end_time = absl::InfinitePast();
  if (row.submit_index <= 0) row.submit_index = globals_.next_submit_index;
  globals_.next_submit_index = std::max(globals_.next_submit_index, row.submit_index + 1);
  AddEvent(row, Job::STATE_UNSPECIFIED, Job::QUEUED, row.state_reason, row.state_message, row.creator);
  dirty_jobs_.insert(name);
  IndexJob(name);
  globals_.schedule_due = true;
  return absl::OkStatus();
}

absl::Status Coordinator::Impl::Handle(const CancelJob& event) {
  const JobRow* found = FindJob(event.job);
  if (found == nullptr) return absl::NotFoundError(absl::StrCat("job ", event.job, " does not exist"));
  if (found->state == Job::CANCELLED || found->state == Job::CANCELLING) return absl::OkStatus();
  if (IsFinal(found->state)) {
    return absl::FailedPreconditionError(
        absl::StrCat("job ", event.job, " is ", Job::State_Name(found->state), " and cannot be cancelled"));
  }
  const std::string message = absl::StrCat(event.actor, " asked to cancel the job.");
  if (found->state == Job::QUEUED) {
    Transition(event.job, Job::CANCELLED, "CANCEL_REQUESTED", message, event.actor);
    globals_.schedule_due = true;  // it may have stood before others
    return absl::OkStatus();
  }
  StopGang(*found);
  Transition(event.job, Job::CANCELLING, "CANCEL_REQUESTED", message, event.actor);
  ReleaseSucceeded(event.job);
  FinishIfGone(event.job, {});
  return absl::OkStatus();
}

absl::Status Coordinator::Impl::Handle(const CheckpointCommitted& event) {
  const ham::v1::Checkpoint& checkpoint = event.checkpoint;
  const absl::Status fence = CheckFence(event.session, event.job, checkpoint.attempt());
  if (!fence.ok()) return fence;
  const JobRow& found = jobs_.at(event.job);
  if (found.checkpoint && found.checkpoint->iteration() >= checkpoint.iteration()) {
    if (found.checkpoint->manifest_digest() == checkpoint.manifest_digest()) return absl::OkStatus();  // sent again
    return absl::FailedPreconditionError(absl::StrCat("job ", event.job, " has a checkpoint of iteration ",
                                                      found.checkpoint->iteration(), " already; that of iteration ",
                                                      checkpoint.iteration(), " is not newer: go on without it"));
  }
  JobRow& row = TouchJob(event.job);
  if (row.checkpoint) row.older_checkpoints.insert(row.older_checkpoints.begin(), *row.checkpoint);
  const size_t older = static_cast<size_t>(std::max(options_.kept_checkpoints, 1) - 1);
  if (row.older_checkpoints.size() > older) row.older_checkpoints.resize(older);
  row.checkpoint = checkpoint;
  row.failed_attempts = 0;
  TouchFacts(event.job).failure_streak = 0;
  std::string actor = kCoordinator;
  for (const Placement& place : row.gang) {
    if (place.session == event.session) actor = workers_.at(place.worker_id).row.name;
    Absolve(place.worker_id);
  }
  Note(row, "CHECKPOINT_COMMITTED",
       absl::StrCat("Checkpoint of iteration ", checkpoint.iteration(), ", epoch ", checkpoint.epoch(), "."), actor);
  dirty_jobs_.insert(event.job);
  return absl::OkStatus();
}

absl::Status Coordinator::Impl::Handle(const CheckpointDamaged& event) {
  const JobRow* found = FindJob(event.job);
  if (found == nullptr) return absl::NotFoundError(absl::StrCat("job ", event.job, " does not exist"));
  if (IsFinal(found->state)) return absl::OkStatus();  // a rank told of it too late
  const auto is_it = [&event](const ham::v1::Checkpoint& c) { return c.manifest_digest() == event.manifest_digest; };
  if (!found->checkpoint || !is_it(*found->checkpoint)) {
    JobRow& row = TouchJob(event.job);
    if (std::erase_if(row.older_checkpoints, is_it) != 0) dirty_jobs_.insert(event.job);
    return absl::OkStatus();
  }
  JobRow& row = TouchJob(event.job);
  std::string message =
      absl::StrCat("The checkpoint of iteration ", row.checkpoint->iteration(), " is damaged: ", event.problem, "; ");
  row.checkpoint.reset();
  if (row.older_checkpoints.empty()) {
    absl::StrAppend(&message, "there is none before it, so the next attempt starts from the beginning.");
  } else {
    row.checkpoint = row.older_checkpoints.front();
    row.older_checkpoints.erase(row.older_checkpoints.begin());
    absl::StrAppend(&message, "the next attempt starts from that of iteration ", row.checkpoint->iteration(), ".");
  }
  dirty_jobs_.insert(event.job);
  const auto& start = facts_.at(event.job).start_checkpoint;
  if (row.state == Job::STARTING && start && is_it(*start)) {
    // Its ranks can never have it. Nobody's failure, and each such attempt leaves one checkpoint less.
    FailAttempt(event.job,
                {.reason = "CHECKPOINT_DAMAGED", .message = message, .actor = kCoordinator, .counts = false});
  } else {
    Note(row, "CHECKPOINT_DAMAGED", message, kCoordinator);
  }
  return absl::OkStatus();
}

absl::Status Coordinator::Impl::Handle(const WorkFinished& event) {
  const JobRow* found = FindJob(event.job);
  if (found == nullptr || IsFinal(found->state) || found->failed_attempts == 0) return absl::OkStatus();
  TouchJob(event.job).failed_attempts = 0;
  TouchFacts(event.job).failure_streak = 0;
  dirty_jobs_.insert(event.job);
  return absl::OkStatus();
}

absl::Status Coordinator::Impl::Handle(const EvaluationRecorded& event) {
  const JobRow* found = FindJob(event.job);
  if (found == nullptr) return absl::NotFoundError(absl::StrCat("job ", event.job, " does not exist"));
  if (found->state == Job::SUCCEEDED && found->record_digest == event.record_digest) return absl::OkStatus();
  if (!found->pool || !IsActive(found->state)) {
    return absl::FailedPreconditionError(
        absl::StrCat("job ", event.job, " is ", Job::State_Name(found->state), " and takes no record"));
  }
  TouchJob(event.job).record_digest = event.record_digest;
  AnnounceGang(*found);
  if (found->state == Job::STARTING) {
    Transition(event.job, Job::RUNNING, "WORK_DONE", "Its ranks have done all of the work.", kCoordinator);
  }
  Transition(event.job, Job::SUCCEEDED, "COMPLETED", "All images are evaluated; the record is made.", kCoordinator);
  for (const Placement& place : std::vector<Placement>(found->gang)) {
    Absolve(place.worker_id);
    Release({event.job, found->attempt, place.rank}, place.worker_id, false);
  }
  return absl::OkStatus();
}

absl::Status Coordinator::Impl::Handle(const JobBroken& event) {
  const JobRow* found = FindJob(event.job);
  if (found == nullptr || IsFinal(found->state)) return absl::OkStatus();
  const Cause cause = {.failure_class = ham::v1::USER,
                       .reason = ham::v1::FailureClass_Name(ham::v1::USER),
                       .message = Shown(event.message, kMostMessageBytes),
                       .actor = kCoordinator};
  if (IsActive(found->state)) {
    FailAttempt(event.job, cause);
  } else if (found->state == Job::QUEUED) {
    TouchJob(event.job).failure_class = cause.failure_class;
    Transition(event.job, Job::FAILED, cause.reason, cause.message, cause.actor);
  } else {
    NoteCause(event.job, cause, true);
  }
  return absl::OkStatus();
}

// Rendezvous keys went with the old process, so a gang that was coming up starts anew, free of charge.
void Coordinator::Impl::RunRestart() {
  if (!globals_.restart_due) return;
  globals_.restart_due = false;
  std::vector<std::string> starting;
  std::vector<std::string> gone;
  std::vector<std::string> stops;
  for (const auto& [name, row] : jobs_) {
    if (row.state == Job::STARTING && !row.pool) starting.push_back(name);
    const bool stopping = row.state == Job::CANCELLING || row.state == Job::RECOVERING;
    if (stopping) (row.gang.empty() ? gone : stops).push_back(name);
  }
  const Cause cause = {.reason = "COORDINATOR_RESTARTED",
                       .message = "The coordinator restarted while the gang was coming up.",
                       .actor = kCoordinator,
                       .counts = false};
  for (const std::string& name : starting) FailAttempt(name, cause);
  for (const std::string& name : gone) FinishIfGone(name, cause);
  for (const std::string& name : stops) StopGang(jobs_.at(name));
}

// ---- ranks -------------------------------------------------------------------------------------------------

void Coordinator::Impl::RankRunning(const RankKey& key, WorkerState& worker, RankFacts& facts) {
  if (facts.running) return;
  facts.running = true;
  const int running = ++TouchFacts(key.job).running_ranks;
  const JobRow& row = jobs_.at(key.job);
  if (row.pool) pending_.pools_changed.insert(key.job);
  if (row.state != Job::STARTING) return;
  if (row.pool) {
    Transition(key.job, Job::RUNNING, "RANK_RUNNING",
               absl::StrCat("Rank ", key.rank, " of attempt ", row.attempt, " runs."), worker.row.name);
  } else if (running == row.world_size) {
    Transition(key.job, Job::RUNNING, "ALL_RANKS_RUNNING",
               absl::StrCat("All ", row.world_size, " ranks of attempt ", row.attempt, " run."), worker.row.name);
  }
}

void Coordinator::Impl::RankExited(const RankKey& key, const std::string& worker_id, const ham::v1::RankExit& exit) {
  WorkerState& worker = TouchWorker(worker_id);
  RankFacts& facts = worker.ranks.at(key);
  if (facts.succeeded) return;
  // A pool is told when it is done.
  if (!exit.success() || jobs_.at(key.job).pool) {
    RankFailed(key, worker_id, exit);
    return;
  }
  facts.succeeded = true;
  Absolve(worker_id);
  for (Placement& place : TouchJob(key.job).gang) {
    if (place.rank == key.rank) place.succeeded = true;
  }
  dirty_jobs_.insert(key.job);
  DesiredChanged(worker);
  const int succeeded = ++TouchFacts(key.job).succeeded_ranks;
  RankRunning(key, worker, facts);
  const JobRow& row = jobs_.at(key.job);
  if (row.state == Job::RUNNING && succeeded == row.world_size) {
    AnnounceGang(row);
    Transition(key.job, Job::SUCCEEDED, "COMPLETED", "All ranks ended with success.", worker.row.name);
    ReleaseSucceeded(key.job);
  } else if (!IsActive(row.state)) {
    Release(key, worker_id, true);
    FinishIfGone(key.job, {});
  }
}

void Coordinator::Impl::RankFailed(const RankKey& key, const std::string& worker_id, const ham::v1::RankExit& exit) {
  const WorkerState& worker = workers_.at(worker_id);
  ham::v1::FailureClass failure_class =
      exit.failure_class() == ham::v1::FAILURE_CLASS_UNSPECIFIED ? ham::v1::TRAINER_CRASH : exit.failure_class();
  std::string message = DescribeExit(key, worker.row.name, exit);
  const auto problem = worker.problems.find(worker.ranks.at(key).slot);
  if (failure_class == ham::v1::TRAINER_CRASH && problem != worker.problems.end()) {
    failure_class = ham::v1::INFRASTRUCTURE;
    absl::StrAppend(&message, " Of its slot: ", problem->second.message());
  }
  if (failure_class == ham::v1::HANG) absl::StrAppend(&message, NotThere(RanksAtWork(jobs_.at(key.job)), key.rank));
  const Cause cause = {.failure_class = failure_class,
                       .reason = ham::v1::FailureClass_Name(failure_class),
                       .message = std::move(message),
                       .actor = worker.row.name,
                       .collateral = exit.has_lost_rank() || failure_class == ham::v1::HANG};
  const bool workers = failure_class == ham::v1::TRAINER_CRASH || failure_class == ham::v1::INFRASTRUCTURE;
  const bool origin = IsActive(jobs_.at(key.job).state) || worker.ranks.at(key).lost_to_peer;
  if (workers && origin && !cause.collateral) BlameWorker(worker_id, key.job);
  LoseRanks(worker_id, {key}, cause, true);
  if (exit.has_lost_rank() && !jobs_.at(key.job).pool) LostToPeer(key.job, exit.lost_rank());
}

void Coordinator::Impl::LoseRanks(const std::string& worker_id, const std::vector<RankKey>& keys, const Cause& cause,
                                  bool proven) {
  std::map<std::string, bool> names;  // and whether one of the ranks is where it began
  for (const RankKey& key : keys) {
    const bool origin = workers_.at(worker_id).ranks.at(key).lost_to_peer && !cause.collateral;
    Release(key, worker_id, proven);
    names[key.job] |= origin;
  }
  for (const auto& [name, origin] : names) {
    const JobRow& row = jobs_.at(name);
    if (IsActive(row.state) && row.pool && !row.gang.empty()) {
      ThinPool(name, worker_id, cause);
    } else if (IsActive(row.state)) {
      FailAttempt(name, cause);
    } else {
      NoteCause(name, cause, origin);
      FinishIfGone(name, cause);
    }
  }
}

// Peers of a rank that failed often report first, with a broken collective. Then its own word counts, and what is not
// to be retried in any case.
void Coordinator::Impl::NoteCause(const std::string& name, const Cause& cause, bool is_origin) {
  if (jobs_.at(name).state != Job::RECOVERING) return;
  JobFacts& facts = TouchFacts(name);
  const bool users = cause.failure_class == ham::v1::USER;
  if (!users && !(is_origin && facts.collateral)) return;
  JobRow& row = TouchJob(name);
  if (row.failure_class == ham::v1::USER) return;
  facts.collateral = false;
  // A checkpoint may have set it to 0 meanwhile.
  if (cause.failure_class == ham::v1::PREEMPTED) row.failed_attempts = std::max(0, row.failed_attempts - 1);
  row.failure_class = cause.failure_class;
  row.state_reason = cause.reason;
  row.state_message = cause.message;
  Note(row, cause.reason, cause.message, cause.actor);
  dirty_jobs_.insert(name);
}

void Coordinator::Impl::Release(const RankKey& key, const std::string& worker_id, bool proven) {
  WorkerState& worker = TouchWorker(worker_id);
  const int slot = worker.ranks.at(key).slot;
  UnindexJob(key.job);
  if (jobs_.at(key.job).pool && worker.ranks.at(key).running) --TouchFacts(key.job).running_ranks;
  worker.ranks.erase(key);
  DesiredChanged(worker);
  if (!proven) worker.stale[key] = {.slot = slot, .undesired_since = worker.desired_version};
  JobRow& row = TouchJob(key.job);
  std::erase_if(row.gang, [&key](const Placement& place) { return place.rank == key.rank; });
  IndexJob(key.job);
  dirty_jobs_.insert(key.job);
  globals_.schedule_due = true;
}

void Coordinator::Impl::ReleaseSucceeded(const std::string& name) {
  const std::vector<Placement> gang = jobs_.at(name).gang;
  const int attempt = jobs_.at(name).attempt;
  for (const Placement& place : gang) {
    const RankKey key = {name, attempt, place.rank};
    if (workers_.at(place.worker_id).ranks.at(key).succeeded) Release(key, place.worker_id, true);
  }
}

void Coordinator::Impl::AnnounceGang(const JobRow& row) {
  for (const Placement& place : row.gang) DesiredChanged(TouchWorker(place.worker_id));
}

void Coordinator::Impl::DesiredChanged(WorkerState& worker) {
  ++worker.desired_version;
  pending_.desired_changed.insert(worker.row.worker_id);
}

// ---- attempts ----------------------------------------------------------------------------------------------

void Coordinator::Impl::FailAttempt(const std::string& name, const Cause& cause) {
  if (cause.counts) CountFailure(name, cause);
  TouchFacts(name).collateral = cause.collateral;
  const JobRow& row = jobs_.at(name);
  StopGang(row);
  ReleaseSucceeded(name);
  if (!row.gang.empty() || !IsOutOfAttempts(row)) {
    Transition(name, Job::RECOVERING, cause.reason, cause.message, cause.actor);
  }
  FinishIfGone(name, cause);
}

void Coordinator::Impl::ThinPool(const std::string& name, const std::string& worker_id, const Cause& cause) {
  const bool users = cause.failure_class == ham::v1::USER;
  if (users && facts_.at(name).running_ranks == 0) return FailAttempt(name, cause);
  // Where others run, what a rank calls the user's fault is more likely its worker's.
  const bool workers = users || cause.failure_class == ham::v1::TRAINER_CRASH ||
                       cause.failure_class == ham::v1::INFRASTRUCTURE || cause.failure_class == ham::v1::HANG;
  if (workers) TouchFacts(name).losses[worker_id] += users ? kMostLosses : 1;
  Note(jobs_.at(name), cause.reason, cause.message, cause.actor);
}

void Coordinator::Impl::CountFailure(const std::string& name, const Cause& cause) {
  UnindexJob(name);
  JobRow& row = TouchJob(name);
  JobFacts& facts = TouchFacts(name);
  if (cause.failure_class != ham::v1::PREEMPTED) ++row.failed_attempts;  // an agent was told to stop: nobody's fault
  row.failure_class = cause.failure_class;
  const bool again = now_.steady - facts.last_failure <= options_.backoff_window;
  facts.failure_streak = again ? facts.failure_streak + 1 : 1;
  facts.last_failure = now_.steady;
  facts.not_before = absl::ZeroDuration();
  if (facts.failure_streak >= 2) {
    facts.not_before = now_.steady + BackoffAfter(facts.failure_streak) * (1.0 + 0.2 * jitter_);
  }
  IndexJob(name);
  dirty_jobs_.insert(name);
}

absl::Duration Coordinator::Impl::BackoffAfter(int failures) const {
  absl::Duration wait = options_.backoff_initial;
  for (int i = 2; i < failures && wait < options_.backoff_cap; ++i) wait *= 2;
  return std::min(wait, options_.backoff_cap);
}

bool Coordinator::Impl::IsOutOfAttempts(const JobRow& row) const {
  return row.failure_class == ham::v1::USER || row.failed_attempts >= row.max_attempts;
}

void Coordinator::Impl::FinishIfGone(const std::string& name, const Cause& cause) {
  const JobRow& row = jobs_.at(name);
  if (!row.gang.empty()) return;
  globals_.schedule_due = true;
  if (row.state == Job::CANCELLING) {
    if (facts_.at(name).succeeded_ranks == row.world_size) {
      Transition(name, Job::SUCCEEDED, "COMPLETED", "All ranks ended with success before they were stopped.",
                 kCoordinator);
    } else {
      Transition(name, Job::CANCELLED, "CANCELLED", "All ranks have stopped.", kCoordinator);
    }
    return;
  }
  if (IsOutOfAttempts(row)) {
    const std::string last = IsActive(row.state) ? cause.message : row.state_message;
    if (row.failure_class == ham::v1::USER) {
      Transition(name, Job::FAILED, "USER", last, kCoordinator);
    } else {
      Transition(name, Job::FAILED, "ATTEMPTS_EXHAUSTED",
                 absl::StrCat(row.failed_attempts, " attempts failed without a ",
                              row.pool ? "finished block" : "new checkpoint", "; the last one: ", last),
                 kCoordinator);
    }
    return;
  }
  if (facts_.at(name).not_before > now_.steady) {
    Transition(name, Job::QUEUED, "BACKOFF",
               absl::StrCat("Waits before attempt ", row.attempt + 1, "; the last one failed: ", row.state_message),
               kCoordinator);
    return;
  }
  IndexJob(name);  // stays RECOVERING for this scheduling round: a new gang, or QUEUED
}

}  // namespace ham::server
