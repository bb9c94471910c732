// The one thread that owns the Coordinator.
//
// Requests wait in a bounded queue. The thread takes a batch of them, applies each, makes what changed durable in one
// transaction (group commit; a batch without durable effects writes nothing), and only then answers the callers, wakes
// the watches and tells the workers. If the transaction fails the batch is undone and its callers get UNAVAILABLE,
// reason STORE_FAILED; until the store is open again only what is not durable is taken (beats, reads), and nothing
// times out for one lease after that, so that workers which could not be heard are not taken for lost. The same holds
// after a stall of the thread (a long batch or commit, a process or machine that stood still), and nothing times out
// while requests wait: beats may be among them.
//
// Public methods are safe from any thread and do not block. Callbacks run on the loop's thread, once each, also when a
// request was refused; they must not block and must not call Stop.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "ham/v1/worker_service.pb.h"
#include "server/clock.h"
#include "server/cluster_snapshot.h"
#include "server/coordinator.h"
#include "server/evaluation_pool.h"
#include "server/job_pictures.h"
#include "server/metric_stream.h"
#include "server/options.h"
#include "server/rendezvous.h"
#include "server/store.h"

namespace ham::server {

// The control stream of a worker. Methods are called on the loop's thread and must not block.
class WorkerStream {
 public:
  virtual ~WorkerStream() = default;
  virtual void Send(ham::v1::CoordinatorMessage message) = 0;
  virtual void End(const absl::Status& status) = 0;
};

// A validated job of CreateJob.
struct NewJob {
  JobRow row;
  JobContent content;
  std::string request_id;  // "" = none
  std::string request_hash;
};

class CoordinatorLoop {
 public:
  struct Options {
    std::string cluster_id;
    int64_t term = 0;
    absl::Duration lease = absl::Seconds(15);
    absl::Duration heartbeat = absl::Seconds(1);
    absl::Duration hang_bound = absl::Minutes(1);
    absl::Duration terminate_grace = absl::Seconds(15);
    int keep_checkpoints = 2;
    Limits limits;
  };
  // All must outlive the loop; jitter gives numbers in [-1, 1].
  struct Parts {
    Store* store = nullptr;
    const SchedulingPolicy* policy = nullptr;
    const Clock* clock = nullptr;
    WatchHub* hub = nullptr;
    RendezvousTable* rendezvous = nullptr;
    SnapshotCell* snapshot = nullptr;
    std::function<double()> jitter;
    // Completes, signs and stores a record, then calls back with the digest of its file, on any thread. Does not block.
    std::function<void(EvaluationRecord record, std::function<void(absl::StatusOr<std::string>)> done)> record;
  };
  // Committed state, for the time of one call on the loop's thread.
  class View {
   public:
    explicit View(const CoordinatorLoop* loop) : loop_(loop) {}
    const Coordinator& core() const { return loop_->core_; }
    int64_t LastSequence(const std::string& job) const;
    // Names of all jobs by submit index.
    const std::map<int64_t, std::string>& by_index() const { return loop_->by_index_; }
    // Also checks cluster_id. ABORTED.
    absl::Status CheckFence(const ham::v1::Fence& fence) const { return loop_->CheckFence(fence); }
    // The same, and the attempt is coming up or runs: not one whose ranks are being stopped.
    absl::Status CheckActive(const ham::v1::Fence& fence) const;

   private:
    const CoordinatorLoop* const loop_;
  };
  using Done = std::function<void(const absl::Status&)>;

  // Takes over what the store held.
  CoordinatorLoop(const Options& options, const Parts& parts, Store::Contents contents);
  ~CoordinatorLoop();  // Stop

  // A new job, or as it is now the one that the first request with this request_id made. ALREADY_EXISTS when the
  // request_id was used for another request.
  void CreateJob(NewJob job, std::function<void(absl::StatusOr<JobRow>)> done);
  // Errors of Coordinator::Apply.
  void Apply(Event event, Done done);
  // First message of a control stream. When OK the stream has got Welcome and its assignments, and an older stream of
  // this worker was ended.
  void Register(ham::v1::RegisterWorker registration, std::shared_ptr<WorkerStream> stream,
                std::function<void(absl::StatusOr<int64_t> session)> done);
  // Sent by a worker with a current session; ABORTED else.
  void Beat(const std::string& worker_id, int64_t session, ham::v1::Beat beat, Done done);
  // The stream is over; nothing happens when a newer one has taken its place.
  void Disconnected(const std::string& worker_id, int64_t session, const WorkerStream* stream);
  // Records of a rank. Answered once durable; fenced when the attempt is no longer the sender's.
  void Append(ham::v1::ReportRequest report, std::function<void(absl::StatusOr<ham::v1::ReportResponse>)> done);
  // Calls back with committed state, or with an error (queue full, stopping) and no view.
  void Inspect(std::function<void(const absl::StatusOr<View>&)> done);

  // Requests that wait for the thread. Takes no lock.
  size_t waiting() const { return waiting_.load(std::memory_order_relaxed); }

  // Finishes what is queued, refuses the rest with UNAVAILABLE, ends the control streams, joins the thread.
  void Stop();

 private:
  // Answers a request; the status is that of the commit.
  using Completion = std::function<void(const absl::Status&)>;
  using Request = std::function<Completion()>;
  struct Item {
    Request run;
    Done refuse;  // null: must be taken
    size_t bytes = 0;
    bool durable = false;  // pointless while the store has failed
  };
  using SpoolKey = std::tuple<std::string, int, int>;  // job, attempt, rank

  void Post(Item item) ABSL_LOCKS_EXCLUDED(mutex_);
  void Run();
  // False when there is nothing more to do and the loop stops. `drained`: nothing more waits.
  bool TakeBatch(std::vector<Item>* batch, bool* drained) ABSL_LOCKS_EXCLUDED(mutex_);
  void RunBatch(std::vector<Item> batch, bool drained);
  // The thread runs now; holds the timers if it is late.
  Now NoteRunning();
  absl::Status Commit();
  void Act(Effects effects, Transaction transaction);
  void Rollback();
  absl::Duration NextWake(absl::Duration now) const;
  void TryReopen();

  absl::Status ApplyEvent(const Event& event) { return ApplyEvent(event, parts_.clock->Read()); }
  absl::Status ApplyEvent(const Event& event, Now now);
  void AddRecord(const std::string& job, ham::v1::JobRecord record);
  absl::StatusOr<std::string> ApplyCreate(const NewJob& job);
  void LearnSpecs();
  void PublishSnapshot(absl::Duration now);

  // -- workers (coordinator_loop_workers.cc)
  absl::StatusOr<ham::v1::ReportResponse> ApplyAppend(const ham::v1::ReportRequest& report);
  void AddSpooled(const ham::v1::ReportRequest& report, const std::string& worker,
                  const ham::v1::SpooledRecord& spooled);
  absl::StatusOr<int64_t> SpoolPosition(const SpoolKey& key);
  absl::Status CheckFence(const ham::v1::Fence& fence) const;
  void SendDesired(const std::string& worker_id);
  // The spec of a job that has an attempt. DATA_LOSS, NOT_FOUND: it is lost. Other errors pass.
  absl::StatusOr<std::shared_ptr<const ham::v1::JobSpec>> SpecOf(const std::string& job);

  // -- evaluations (coordinator_loop_evaluations.cc)
  struct Evaluation {
    EvaluationPool pool;
    bool recording = false;
    bool news = false;                                   // findings since its newest metrics
    size_t advances = 0;                                 // EvaluationPool::advances that the core knows of
    absl::Duration said_at = -absl::InfiniteDuration();  // its newest metrics; steady
  };
  // That of a job with an attempt, from the log where it is not known yet. Errors as SpecOf.
  absl::StatusOr<Evaluation*> EvaluationOf(const std::string& job);
  void AddFinding(const ham::v1::Fence& fence, ham::v1::JobRecord record);
  void NoteFinding(const std::string& job, const ham::v1::EvaluationFinding& finding);
  // After findings, or a change of its row.
  void SettleEvaluation(const std::string& job);
  void SettleEvaluations();
  void SayMetrics(const std::string& job, Evaluation& evaluation);
  void AddMetrics(const std::string& job, const ham::v1::EvaluationMetrics& metrics);
  void StartRecord(const std::string& job, Evaluation& evaluation);
  void FinishRecord(const std::string& job, const absl::StatusOr<std::string>& digest);
  void Break(const std::string& job, const std::string& problem);

  const Options options_;
  const Parts parts_;

  // Owned by the loop's thread.
  Coordinator core_;
  std::map<std::string, int64_t> last_sequence_;
  std::map<int64_t, std::string> by_index_;
  std::map<SpoolKey, int64_t> spools_;  // of current attempts, as far as asked for
  std::map<std::string, std::shared_ptr<WorkerStream>> streams_;
  std::map<std::string, std::shared_ptr<const ham::v1::JobSpec>> specs_;  // of jobs with an attempt
  std::map<std::string, Evaluation> evaluations_;                         // at work, by job
  std::set<std::string> unsent_;                                          // workers whose assignments could not be made
  Transaction transaction_;                                               // of the batch in hand
  std::map<SpoolKey, int64_t> batch_spools_;
  std::set<std::string> batch_streams_;  // workers that registered in it
  size_t events_seen_ = 0;               // of core_.pending().events
  // Ends of streams that were undone with their batch; they come again once the store is open.
  std::vector<std::tuple<std::string, int64_t, const WorkerStream*>> undone_ends_;
  bool store_failed_ = false;
  absl::Duration reopen_at_;
  absl::Duration settle_at_ = absl::InfiniteDuration();  // evaluations
  absl::Duration timers_from_;                           // no timer fires before
  absl::Duration due_;                                   // when the thread was to run again at the latest
  bool frozen_ = false;                                  // the core holds all leases
  // For the snapshot.
  std::map<std::string, ham::v1::Job::State> states_;
  JobPictures pictures_;
  std::map<std::string, std::vector<ham::v1::GpuReading>> gpus_;  // of the newest beats, by worker_id
  ClusterSnapshot counters_;                                      // and the jobs as the newest snapshot shows them
  bool snapshot_due_ = true;                                      // something that should show at once
  bool snapshot_dirty_ = true;                                    // something that may wait
  absl::Duration jobs_time_;                                      // of those jobs

  absl::Mutex mutex_;
  absl::CondVar wake_;
  std::deque<Item> queue_ ABSL_GUARDED_BY(mutex_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::atomic<size_t> waiting_ = 0;  // queue_.size(), for those who must not wait
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

// The error of calls that found the store failed.
absl::Status StoreFailed();

}  // namespace ham::server
