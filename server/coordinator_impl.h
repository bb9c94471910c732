// Inside of the coordinator; included by server/coordinator*.cc only.
//
// Files: coordinator.cc (events, undo, restore, views), coordinator_jobs.cc (a job's life), coordinator_workers.cc
// (registrations, beats, leases), coordinator_schedule.cc (queue to gangs), coordinator_verdicts.cc (ranks that hang,
// peers that are lost, workers that fail again and again), coordinator_invariants.cc, job_transitions.cc (the table).
#pragma once

#include <compare>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/coordinator.h"
#include "server/gang_verdict.h"
#include "server/scheduling_policy.h"

namespace ham::server {

// To look for a rank without a copy of its job's name.
struct RankKeyView {
  std::string_view job;
  int attempt = 0;
  int rank = 0;
  auto operator<=>(const RankKeyView&) const = default;
};

struct RankKey {
  std::string job;
  int attempt = 0;
  int rank = 0;
  operator RankKeyView() const { return {job, attempt, rank}; }
};

struct RankOrder {
  using is_transparent = void;
  bool operator()(const RankKeyView& a, const RankKeyView& b) const { return a < b; }
};

// What is known of a placed rank; volatile except for the placement itself.
struct RankFacts {
  int slot = 0;
  int64_t desired_since = 0;  // version of Desired() that named it first
  bool reported = false;      // the agent has named it, so its absence means that it is gone
  bool running = false;
  bool succeeded = false;  // exited with success; waits for the rest of its gang
  int64_t collective_sequence = 0;
  absl::Duration advance_time = -absl::InfiniteDuration();  // collective_sequence grew after this; steady
  RankPulse pulse = {};
  bool lost_to_peer = false;  // another rank of its gang has lost the connection to it
  bool slow = false;          // that it holds its gang up is noted
};

// A rank that no job holds any more but that may still run on its worker and occupies a slot there.
struct StaleRank {
  int slot = -1;                // -1: not known, then no slot of the worker is free
  int64_t undesired_since = 0;  // an older beat does not prove its absence
};

struct Registration {
  std::string build_id;
  std::vector<ham::v1::Slot> slots;  // by index
  std::vector<ham::v1::DataSet> data_sets;
};

struct WorkerState {
  WorkerRow row;
  std::shared_ptr<const Registration> registration;  // null until it registers with this process
  bool connected = false;
  bool unreachable = false;  // lease over; cleared by the next beat or registration
  bool suspected = false;    // its silence is part of a freeze; cleared likewise
  bool leaving = false;      // it said so; cleared when it registers again
  absl::Duration heard;      // steady time its lease runs from
  absl::Time connect_time = absl::InfinitePast();
  absl::Time last_beat_time = absl::InfinitePast();
  int64_t stream = 0;  // newest of this incarnation that registered
  int64_t desired_version = 0;
  std::map<RankKey, RankFacts, RankOrder> ranks;  // exactly the placements of all gangs on this worker
  std::map<RankKey, StaleRank, RankOrder> stale;
  std::map<int, ham::v1::SlotProblem> problems;  // by slot: these get no ranks
  std::deque<std::pair<absl::Duration, std::string>>
      failures;  // (steady time, job) by its own fault, within the window
  absl::Duration excluded_until = -absl::InfiniteDuration();
};

// It becomes part of the job, and a page of ListJobs holds a thousand jobs.
inline constexpr size_t kMostMessageBytes = 1000;
inline constexpr char kCoordinator[] = "coordinator";

// It has all of its ranks, and they are to run.
inline bool IsActive(ham::v1::Job::State state) {
  return state == ham::v1::Job::STARTING || state == ham::v1::Job::RUNNING;
}

// So many ranks of a pool may fail on a worker; then it gets no more of them in this attempt.
inline constexpr int kMostLosses = 3;

// What is known of a job beside its row; volatile.
struct JobFacts {
  int running_ranks = 0;
  int succeeded_ranks = 0;
  int failure_streak = 0;  // failures, each within backoff_window of the one before
  absl::Duration last_failure = -absl::InfiniteDuration();
  absl::Duration not_before = absl::ZeroDuration();     // 0: may start now
  std::optional<ham::v1::Checkpoint> start_checkpoint;  // all ranks of the attempt start from this one
  std::map<std::string, int> losses;                    // of a pool's attempt: ranks that failed, by worker_id
  bool collateral = false;                              // the attempt failed by a rank that lost another one
  std::set<std::string> failed_on;                      // worker_ids that were blamed for a failure
  absl::Duration judged = -absl::InfiniteDuration();    // steady
  absl::Duration stop_by = absl::InfiniteDuration();    // ranks told to stop are given up then
};

class Coordinator::Impl {
 public:
  Impl(const CoordinatorOptions& options, const SchedulingPolicy* policy) : options_(options), policy_(policy) {}

  void Restore(std::vector<JobRow> jobs, std::vector<WorkerRow> workers, Now now);
  absl::Status Apply(const Event& event, Now now, double jitter);
  const Effects& pending();
  Effects CommitBatch();
  void RollbackBatch();
  absl::Duration NextTimer() const;
  absl::Duration FrozenUntil() const { return globals_.frozen_until; }
  absl::Status CheckFence(int64_t session, const std::string& job, int attempt) const;
  const JobRow* FindJob(const std::string& name) const;
  const std::map<std::string, JobRow>& jobs() const { return jobs_; }
  std::optional<WorkerRow> FindWorker(const std::string& worker_id) const;
  std::vector<WorkerView> Workers() const;
  std::vector<DesiredRank> Desired(const std::string& worker_id) const;
  std::set<int> RunningRanks(const std::string& job) const;
  int64_t DesiredVersion(const std::string& worker_id) const;
  std::vector<std::string> CheckInvariants() const;

 private:
  struct Cause {
    ham::v1::FailureClass failure_class = ham::v1::FAILURE_CLASS_UNSPECIFIED;
    std::string reason;
    std::string message;
    std::string actor;
    bool counts = true;       // towards backoff, and max_attempts unless PREEMPTED
    bool collateral = false;  // says nothing of why an attempt failed that has failed already
  };
  // Small volatile state, copied whole at the start of a batch.
  struct Globals {
    absl::Duration lease_check_at = absl::InfiniteDuration();
    absl::Duration frozen_until = -absl::InfiniteDuration();
    absl::Duration exclusion_check_at = absl::InfiniteDuration();
    absl::Duration stop_check_at = absl::InfiniteDuration();
    bool schedule_due = false;
    bool restart_due = false;  // jobs as Restore found them still wait for their first look
    bool returning = false;    // since Restore not all workers are back that held ranks then, and may still come
    int64_t next_submit_index = 1;
    int64_t next_session = 1;  // over all workers, so that a session names its worker
  };
  struct JobUndo {
    bool existed = false;
    JobRow row;
    JobFacts facts;
  };
  struct WorkerUndo {
    bool existed = false;
    WorkerState state;
  };

  absl::Status Handle(const SubmitJob& event);
  absl::Status Handle(const CancelJob& event);
  absl::Status Handle(const WorkerRegistered& event);
  absl::Status Handle(const WorkerBeat& event);
  absl::Status Handle(const WorkerDisconnected& event);
  absl::Status Handle(const CheckpointCommitted& event);
  absl::Status Handle(const CheckpointDamaged& event);
  absl::Status Handle(const WorkFinished& event);
  absl::Status Handle(const EvaluationRecorded& event);
  absl::Status Handle(const JobBroken& event);
  absl::Status Handle(const TimerFired& event);

  // Copy to the undo log at first touch in a batch; every mutation starts here.
  JobRow& TouchJob(const std::string& name);
  JobFacts& TouchFacts(const std::string& name);
  WorkerState& TouchWorker(const std::string& worker_id);

  // -- a job's life (coordinator_jobs.cc)
  void Transition(const std::string& name, ham::v1::Job::State to, const std::string& reason,
                  const std::string& message, const std::string& actor);
  void AddEvent(const JobRow& row, ham::v1::Job::State from, ham::v1::Job::State to, const std::string& reason,
                const std::string& message, const std::string& actor);
  // An event that leaves the state as it is.
  void Note(const JobRow& row, const std::string& reason, const std::string& message, const std::string& actor);
  void RunRestart();
  void RankRunning(const RankKey& key, WorkerState& worker, RankFacts& facts);
  void RankExited(const RankKey& key, const std::string& worker_id, const ham::v1::RankExit& exit);
  void RankFailed(const RankKey& key, const std::string& worker_id, const ham::v1::RankExit& exit);
  // The ranks are gone (proven) or given up (not proven: their slots stay occupied until the worker says so).
  void LoseRanks(const std::string& worker_id, const std::vector<RankKey>& keys, const Cause& cause, bool proven);
  void Release(const RankKey& key, const std::string& worker_id, bool proven);
  void ReleaseSucceeded(const std::string& name);
  void AnnounceGang(const JobRow& row);
  void FailAttempt(const std::string& name, const Cause& cause);
  // A pool goes on without ranks that it lost on this worker, unless none runs any more and it is the user's fault.
  void ThinPool(const std::string& name, const std::string& worker_id, const Cause& cause);
  void FinishIfGone(const std::string& name, const Cause& cause);
  void CountFailure(const std::string& name, const Cause& cause);
  // Of an attempt that failed already: what is known better now.
  void NoteCause(const std::string& name, const Cause& cause, bool is_origin);
  bool IsOutOfAttempts(const JobRow& row) const;
  absl::Duration BackoffAfter(int failures) const;
  void DesiredChanged(WorkerState& worker);
  // A queue entry exists for QUEUED jobs, for pools at work that may grow, and for RECOVERING jobs without a gang,
  // until the event ends.
  void IndexJob(const std::string& name);
  void UnindexJob(const std::string& name);

  // -- workers (coordinator_workers.cc)
  absl::Status TakeName(const ham::v1::RegisterWorker& registration);
  absl::Status CheckIncarnation(const ham::v1::RegisterWorker& registration) const;
  void BeginSession(WorkerState& worker, const ham::v1::RegisterWorker& registration);
  // `problems` are all that it tells of; those of slots that it does not have are left out.
  void TakeProblems(WorkerState& worker, std::map<int, ham::v1::SlotProblem> problems);
  void Heard(WorkerState& worker);
  void Observe(const std::string& worker_id, const ham::v1::ObservedRank& observed, absl::Duration since_last);
  // Draws conclusions from what `observed` lacks. `version`: newest Desired() the worker had seen; nullopt for a
  // registration, which is newer than anything sent before.
  void ObserveAbsence(const std::string& worker_id, const std::vector<ham::v1::ObservedRank>& observed,
                      std::optional<int64_t> version);
  // Of a worker that starts none any more.
  void GiveUpUnstarted(const std::string& worker_id, const std::vector<ham::v1::ObservedRank>& observed);
  void ExpireLeases();
  void NoteUnreachable(const WorkerState& worker, const RankKey& key);
  bool SuspectsItself();
  bool AreAllBack() const;
  absl::Duration HoldUntil(const WorkerState& worker, const JobRow& row) const;
  void WakeBackoff();

  // -- verdicts (coordinator_verdicts.cc)
  // After a beat of this worker.
  void JudgeRanksOf(const std::string& worker_id);
  std::vector<GangRank> RanksAtWork(const JobRow& row) const;
  static Cause HangOf(const Verdict& verdict);
  void JudgeGang(const std::string& name);
  void JudgePool(const std::string& name);
  void NoteSlow(const std::string& name);
  // Another rank of the attempt has lost the connection to this one.
  void LostToPeer(const std::string& name, int rank);
  // The worker's control stream is closed: ranks that peers have lost too are dead.
  void GiveUpLostRanks(const std::string& worker_id);
  void BlameWorker(const std::string& worker_id, const std::string& job);
  // From now on, for all of the exclusion time.
  void Exclude(WorkerState& worker);
  bool MayExcludeOne() const;
  void Absolve(const std::string& worker_id);
  // The attempt's ranks are told to stop.
  void StopGang(const JobRow& row);
  // Ranks that do not end although they were told to, on a worker that is heard of: their slots stay taken.
  void GiveUpUnstoppable();
  void EndExclusions();

  // -- queue (coordinator_schedule.cc)
  void Schedule();
  // Jobs that may start or grow now, in order, and their rows; both view jobs_ and facts_.
  std::vector<QueuedJob> Queue(std::vector<const JobRow*>* rows) const;
  static void CheckGrants(const struct Schedule& plan, const std::vector<const JobRow*>& rows);
  // What of the connected workers gets no ranks, and why: sentences, or "".
  std::string ExcludedText() const;
  std::string ProblemsText() const;
  std::vector<SlotView> FreeSlots(std::vector<SlotView>* all) const;
  void StartAttempt(const std::string& name, const std::vector<SlotView>& slots);
  void JoinPool(const std::string& name, const std::vector<SlotView>& slots);
  // Gives the attempt these slots; the names of their workers.
  std::string Place(JobRow& row, const std::vector<SlotView>& slots, int first_rank);
  void Wait(const JobRow& current, const WaitReason& why);

  // -- invariants (coordinator_invariants.cc): each adds a sentence for what is broken
  void CheckGang(const JobRow& row, std::vector<std::string>* broken) const;
  void CheckRanks(const JobRow& row, std::vector<std::string>* broken) const;
  void CheckWorker(const std::string& worker_id, const WorkerState& worker, std::vector<std::string>* broken) const;

  const CoordinatorOptions options_;
  const SchedulingPolicy* const policy_;

  std::map<std::string, JobRow> jobs_;
  std::map<std::string, JobFacts> facts_;  // same keys
  std::map<std::string, WorkerState> workers_;
  Globals globals_;
  // Derived from the above.
  struct QueueEntry {  // a long queue is walked often: no look-ups by name
    const JobRow* row;
    const JobFacts* facts;
  };
  std::map<std::pair<int64_t, std::string>, QueueEntry> queue_;  // by (submit_index, job)
  std::set<std::pair<absl::Duration, std::string>> backoff_;     // (not_before, job), of queued jobs
  std::map<std::string, std::string> worker_by_name_;

  Now now_;  // of the event in hand
  double jitter_ = 0;

  Effects pending_;                   // jobs and workers are filled in by pending()
  std::set<std::string> dirty_jobs_;  // rows to write
  std::set<std::string> dirty_workers_;
  std::map<std::string, JobUndo> undo_jobs_;
  std::map<std::string, WorkerUndo> undo_workers_;
  std::optional<Globals> undo_globals_;
};

// A broken invariant: says so and stops the program.
void Require(bool condition, const std::string& what);

}  // namespace ham::server
