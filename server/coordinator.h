// The core of the coordinator: a pure state machine over jobs, attempts, workers and slots.
//
//   (state, event, now) -> new state + Effects
//
// No threads, clocks, gRPC, SQL, ids or random numbers inside; all of these come in as arguments. It keeps
// only what scheduling reads; specs stay in the store. Iteration is over ordered containers only, so that
// the same events give the same effects.
//
// Thread rule: owned by one thread (CoordinatorLoop); not safe for any other.
//
// Invariants, checked by tests/simulation after each event:
//   - a slot belongs to at most one attempt; an attempt holds all slots of its gang or none, a pool at least one
//   - attempt numbers and worker sessions only grow; a job in a final state never changes again
//   - a message that names a session or attempt which is not current changes nothing
//
// Commit before act: the owner applies a batch of events, makes Effects durable in one transaction, then
// calls CommitBatch and only then sends anything out. If the store fails it calls RollbackBatch: the state
// is what it was before the batch, volatile facts (beats, connections) included.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "ham/v1/job.pb.h"
#include "ham/v1/job_service.pb.h"
#include "ham/v1/worker_service.pb.h"
#include "server/rank_pulse.h"

namespace ham::server {

class SchedulingPolicy;

// The time, twice: leases, backoff and detectors read `steady` (since process start, never jumps); `wall`
// is for display only.
struct Now {
  absl::Duration steady;
  absl::Time wall;
};

struct CoordinatorOptions {
  // Silence after which a worker's lease is over. Range [1 s, 1 h]; multiplied by 4 for workers that held
  // ranks when the coordinator started, until they register.
  absl::Duration lease = absl::Seconds(15);
  // Longest silence that a freeze of the leases (see SuspectsItself) excuses: after it agents without contact have
  // stopped their ranks themselves (orphan_limit). At least the lease.
  absl::Duration freeze_limit = absl::Hours(1);
  // Between two beats; three of them are the most that a beat's silence counts (rank_pulse.h).
  absl::Duration heartbeat = absl::Seconds(1);
  HangBounds hang;
  // First retry of an attempt is immediate; from the second failure within `backoff_window` the job waits
  // initial, x2 each, at most cap, spread by +-20 % with the number the event brought (see Event rules).
  absl::Duration backoff_initial = absl::Seconds(5);
  absl::Duration backoff_cap = absl::Minutes(5);
  absl::Duration backoff_window = absl::Minutes(10);
  // Checkpoints that a job keeps, the newest among them. At least 1. Each costs its size on the coordinator's disk.
  int kept_checkpoints = 2;
  // A worker on which so many attempts, of two jobs at least, failed within the window, none ended well and no
  // checkpoint was stored since the first of them, gets no ranks for a while, or until it registers anew. Jobs that
  // failed on several workers do not count, and at most a third of all workers are excluded.
  int exclusion_failures = 3;
  absl::Duration exclusion_window = absl::Minutes(30);
  absl::Duration exclusion_time = absl::Minutes(10);
  // From telling a rank to stop to giving it up where it does not end: much more than SIGTERM to SIGKILL takes.
  absl::Duration stop_limit = absl::Minutes(2);
};

// ---- what is durable -------------------------------------------------------------------------------------

// One rank's place.
struct Placement {
  int rank = 0;
  std::string worker_id;
  int64_t session = 0;
  int slot = 0;            // Slot.index
  bool succeeded = false;  // it ended with success and waits for the rest of its gang
};

// A job as the core keeps it; one row of the store.
struct JobRow {
  std::string name;          // projects/{p}/jobs/{j}
  int64_t submit_index = 0;  // queue order; a retried job keeps its place
  ham::v1::Job::State state = ham::v1::Job::QUEUED;
  std::string state_reason;
  std::string state_message;
  std::string creator;
  // What the gang needs. A pool (an evaluation) starts with 1 to world_size ranks that work by themselves: others join
  // as slots become free, and the attempt goes on while one is left.
  bool pool = false;
  int world_size = 1;
  std::string device;    // "cpu" or "cuda"
  std::string data_set;  // name that every worker of the gang must advertise with one digest
  int max_attempts = 5;
  // The newest attempt; 0 before the first. `gang` is empty unless it holds slots.
  int attempt = 0;
  std::vector<Placement> gang;
  // Of a pool: rank numbers of this attempt that were given out, and what its first attempt began with, which all
  // others must have too; "" before.
  int next_rank = 0;
  std::string data_digest;
  std::string build_id;
  int failed_attempts = 0;  // since the last committed checkpoint or finished block; compared with max_attempts
  ham::v1::FailureClass failure_class = ham::v1::FAILURE_CLASS_UNSPECIFIED;
  std::optional<ham::v1::Checkpoint> checkpoint;
  std::vector<ham::v1::Checkpoint> older_checkpoints;  // kept for when that one is damaged; newest first
  std::string record_digest;                           // of a pool that SUCCEEDED
  absl::Time create_time = absl::InfinitePast();
  absl::Time start_time = absl::InfinitePast();
  absl::Time end_time = absl::InfinitePast();
};

// A worker as the store knows it; its slots and data sets come with each registration.
struct WorkerRow {
  std::string worker_id;
  std::string name;
  std::string incarnation;
  int64_t incarnation_number = 0;  // RegisterWorker.incarnation_number
  int64_t session = 0;
  bool excluded = false;  // a restart begins the exclusion anew, in full
};

// A state change, or what happened within a state, to be appended to the job's log.
struct EventRow {
  std::string job;
  int attempt = 0;
  ham::v1::JobEvent event;
  absl::Time time;
};

// ---- events ------------------------------------------------------------------------------------------------

struct SubmitJob {
  JobRow job;  // state, attempt, gang, times are ignored; submit_index 0 means the next one
};
struct CancelJob {
  std::string job;
  std::string actor;
};
// First message of a control stream.
struct WorkerRegistered {
  ham::v1::RegisterWorker registration;
};
// Sent by a worker with a current session.
struct WorkerBeat {
  std::string worker_id;
  int64_t session = 0;
  std::vector<ham::v1::ObservedRank> observed;
  // Beat.desired_version: the newest DesiredVersion() that the worker has seen on this stream; 0 before the first. It
  // tells a rank that was stopped from one that the worker has not been told of yet.
  int64_t desired_version = 0;
  bool leaving = false;                             // it starts no rank any more
  std::vector<ham::v1::SlotProblem> problems = {};  // of its slots, all that there are
};
// The control stream ended. Evidence only: ranks go on until the lease is over.
struct WorkerDisconnected {
  std::string worker_id;
  int64_t session = 0;
};
struct CheckpointCommitted {
  int64_t session = 0;
  std::string job;
  ham::v1::Checkpoint checkpoint;  // .attempt is the sender's
};
// A committed checkpoint turned out to be damaged or missing where it is kept.
struct CheckpointDamaged {
  std::string job;
  std::string manifest_digest;
  std::string problem;  // a part of a sentence
};
// Ranks of a pool got something done, and that is durable.
struct WorkFinished {
  std::string job;
};
// The record of an evaluation is made and stored: a pool is done.
struct EvaluationRecorded {
  std::string job;
  std::string record_digest;
};
// A job that cannot go on (its stored spec cannot be read, its ranks contradict each other) fails, unless it has ended.
struct JobBroken {
  std::string job;
  std::string message;  // one sentence
};
// NextTimer() has come, and all that was sent by then has been applied: silence is judged now.
struct TimerFired {};

using Event = std::variant<SubmitJob, CancelJob, WorkerRegistered, WorkerBeat, WorkerDisconnected, CheckpointCommitted,
                           CheckpointDamaged, WorkFinished, EvaluationRecorded, JobBroken, TimerFired>;

// ---- effects -----------------------------------------------------------------------------------------------

// What a batch changed. First `jobs`, `workers`, `events` are made durable; then the rest is acted on.
struct Effects {
  std::map<std::string, JobRow> jobs;                       // by name; rows to write
  std::map<std::string, WorkerRow> workers;                 // by worker_id; rows to write
  std::vector<EventRow> events;                             // in order
  std::set<std::string> desired_changed;                    // worker_ids whose Desired() is to be sent
  std::set<std::string> pools_changed;                      // jobs whose RunningRanks() grew
  std::vector<std::pair<std::string, int>> ended_attempts;  // (job, attempt): its rendezvous keys go
  bool durable_empty() const { return jobs.empty() && workers.empty() && events.empty(); }
};

// ---- views -------------------------------------------------------------------------------------------------

struct WorkerView {
  WorkerRow row;
  ham::v1::Worker::State state = ham::v1::Worker::UNREACHABLE;
  std::string build_id;
  std::vector<ham::v1::Slot> slots;  // .job and .problem filled in
  std::vector<ham::v1::DataSet> data_sets;
  absl::Time connect_time;
  absl::Time last_beat_time;
  absl::Duration heard = -absl::InfiniteDuration();  // steady time of the same; not by this process yet: the past
  absl::Time excluded_until;                         // with EXCLUDED
};

// One assignment, without the spec (the owner adds it from the store).
struct DesiredRank {
  std::string job;
  int attempt = 0;
  int rank = 0;
  int world_size = 0;
  int slot = 0;
  std::optional<ham::v1::Checkpoint> checkpoint;
};

class Coordinator {
 public:
  // `policy` must outlive the coordinator.
  Coordinator(const CoordinatorOptions& options, const SchedulingPolicy* policy);
  ~Coordinator();

  // Loads what the store held. Called once, before any Apply. Workers with ranks get 4 leases from `now`. What
  // follows from the restart itself happens with the first Apply; NextTimer() asks for one at once.
  void Restore(std::vector<JobRow> jobs, std::vector<WorkerRow> workers, Now now);

  // Applies one event to the state. An error means: refused, nothing changed; it goes to the sender:
  //   SubmitJob            ALREADY_EXISTS if the name is taken
  //   CancelJob            NOT_FOUND; FAILED_PRECONDITION for SUCCEEDED or FAILED
  //   WorkerRegistered     ALREADY_EXISTS if a connected worker of another worker_id holds the name; ABORTED for an
  //                        incarnation of this worker_id that is no newer than another one, or a stream likewise
  //   CheckpointCommitted  FAILED_PRECONDITION unless it is newer than the committed one, or the same
  //   EvaluationRecorded   FAILED_PRECONDITION unless the job is a pool at work, or has this record
  //   WorkerBeat, CheckpointCommitted, WorkerDisconnected   ABORTED when session or attempt is not current;
  //                        a beat may name stale attempts: those ranks are ignored, the rest counts
  // `jitter` in [-1, 1] spreads a backoff that this event may start. Ends with scheduling if slots or queue changed.
  absl::Status Apply(const Event& event, Now now, double jitter);

  // Effects since the last CommitBatch / RollbackBatch.
  const Effects& pending() const;
  // Forgets the undo log and returns the effects to act on.
  Effects CommitBatch();
  // Undoes every event since the last CommitBatch / RollbackBatch.
  void RollbackBatch();

  // When TimerFired is wanted next; InfiniteDuration if never.
  absl::Duration NextTimer() const;
  // No lease ends before: too many workers are silent to believe that it is their fault. In the past if none is held.
  absl::Duration FrozenUntil() const;

  // OK if (session, job, attempt) is current: the attempt is the newest, holds slots, and a rank of it was
  // placed with this session. ABORTED otherwise.
  absl::Status CheckFence(int64_t session, const std::string& job, int attempt) const;

  const JobRow* FindJob(const std::string& name) const;  // nullptr if unknown; valid until the next Apply
  const std::map<std::string, JobRow>& jobs() const;
  std::optional<WorkerRow> FindWorker(const std::string& worker_id) const;
  std::vector<WorkerView> Workers() const;                               // by name
  std::vector<DesiredRank> Desired(const std::string& worker_id) const;  // by (job, rank); without succeeded ranks
  // Ranks of the newest attempt that have been seen to run.
  std::set<int> RunningRanks(const std::string& job) const;
  // DesiredAssignments.version to send with it; grows with each change and each registration.
  int64_t DesiredVersion(const std::string& worker_id) const;

  // Broken invariants, one sentence each; empty when all hold. For tests and simulation.
  std::vector<std::string> CheckInvariants() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// The table of job states and their arrows: true if a job may go from one state to the other.
bool IsAllowedTransition(ham::v1::Job::State from, ham::v1::Job::State to);

}  // namespace ham::server
