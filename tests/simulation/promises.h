// What the coordinator promises, and the model that finds where it does not hold: rows and log as a store would hold
// them, and what its contract makes of each event.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/coordinator.h"
#include "tests/simulation/coverage.h"
#include "tests/simulation/simulated_agent.h"

namespace ham::simulation {

// How things really are, whatever the messages say.
class Truth {
 public:
  virtual ~Truth() = default;
  virtual bool IsAlive(const std::string& job, int attempt, const server::Placement& place) const = 0;
  // Its process has ended, or the agent that was to start it has.
  virtual bool IsGone(const std::string& job, int attempt, const server::Placement& place) const = 0;
  // A rank of its gang got stuck, or the connection between two.
  virtual bool WasStuck(const std::string& job, int attempt) const = 0;
  // In a short outage, or just after it.
  virtual bool IsShielded(const std::string& worker_id) const = 0;
  // All ranks of this attempt ended with success.
  virtual bool IsGangDone(const server::JobRow& row) const = 0;
  virtual bool IsPoolDone(const std::string& job) const = 0;
};

struct Violation {
  int64_t event = 0;    // how many there were
  std::string promise;  // which one is broken: the same words each time
  std::string detail;
  std::string ToString() const;
};

class Promises {
 public:
  // All outlive it.
  Promises(const server::CoordinatorOptions& options, const Truth* truth, Coverage* coverage);

  // The coordinator was restored from rows().
  void Started(absl::Duration now);
  // After each event.
  void Applied(const server::Coordinator& core, const server::Event& event, const absl::Status& status,
               absl::Duration now, absl::Duration steady);
  void Committed(const server::Coordinator& core);
  void RolledBack();
  // The coordinator told somebody.
  void Acknowledged(const server::Event& event);
  void CheckNothingLost(const server::Coordinator& core);
  // Is about to leave for a worker.
  void CheckDesired(const std::string& worker_id, const std::vector<server::DesiredRank>& desired);
  void Check(bool condition, const char* promise, const std::string& detail);
  // While the store fails, and a lease longer.
  void HoldTimers(absl::Duration until) { timers_from_ = until; }

  // Durable.
  std::vector<server::JobRow> JobRows() const;
  std::vector<server::WorkerRow> WorkerRows() const;
  const server::JobRow* Find(const std::string& job) const;
  const std::set<std::string>& open() const { return open_; }  // jobs that are not final
  // Of the log, for a digest.
  uint64_t log_hash() const { return log_hash_; }
  size_t log_taken() const { return log_taken_; }  // rows of the batch in hand that were applied

  int64_t events() const { return events_; }
  const std::vector<Violation>& violations() const { return violations_; }

 private:
  struct Tracked {
    server::JobRow row;
    ham::v1::Job::State logged = ham::v1::Job::STATE_UNSPECIFIED;  // to_state of the last event
    int placed = 0;                                                // attempts
    std::optional<ham::v1::Checkpoint> start_checkpoint;
    absl::Duration stop_from = absl::ZeroDuration();  // its ranks are told to end
    int streak = 0;                                   // failures, each within the window of the one before
    absl::Duration last_failure = -absl::InfiniteDuration();
    absl::Duration not_before = absl::ZeroDuration();  // of the next attempt
  };

  // Of a rank: reports that said nothing new, as the core counts them.
  struct Standstill {
    int64_t tick = 0;
    int64_t begun = 0;
    int64_t sequence = 0;
    int steps = 0;  // one after the other without a wait
    absl::Duration time = absl::ZeroDuration();
    absl::Duration advanced = -absl::InfiniteDuration();  // when it told of more collectives than ever before
    bool works() const { return begun == sequence; }
  };

  void BeginBatch();
  Tracked& Touch(const std::string& job);
  absl::Duration Backoff(int failures) const;
  void CheckAnswer(const server::Coordinator& core, const server::Event& event, const absl::Status& status);
  void Hear(const server::Event& event);
  void HearRanks(const server::WorkerBeat& beat);
  bool TellsMore(const RankId& rank, int64_t collectives);
  void CheckStuckAreFound(const server::Coordinator& core, const server::WorkerBeat& beat);
  bool MustBeFound(const server::Coordinator& core, const RankId& rank, const Standstill& still) const;
  void TakeLog(const server::Coordinator& core, const server::EventRow& row, const server::Event& event);
  void CheckKill(const Tracked& job, const server::EventRow& row, const server::Event& event);
  void CountFailure(const server::Coordinator& core, Tracked& job, const server::EventRow& row);
  void CheckNobodyOvertaken(const server::Coordinator& core, const server::JobRow& started);
  void CheckChange(const Tracked& job, const server::JobRow& row, const server::Event& event);
  void CheckLost(const Tracked& job, const server::JobRow& row, const server::Event& event);
  void CheckPlaces(const server::JobRow& old, const server::JobRow& row);
  void CheckSilence(const server::Placement& place);
  bool OthersAdvance(const server::JobRow& row, const server::Placement& silent) const;
  void CheckRow(const server::JobRow& row);
  void CheckCheckpoint(const server::JobRow& old, const server::JobRow& row, const server::Event& event);
  void CheckWorkers(const server::Effects& effects);
  size_t CountWorkers() const;
  absl::Duration Silence(const std::string& worker_id) const;
  bool IsSilent(const std::string& worker_id) const;

  const server::CoordinatorOptions& options_;
  const Truth* const truth_;
  Coverage* const coverage_;
  std::vector<Violation> violations_;
  int64_t events_ = 0;
  uint64_t log_hash_ = 0xcbf29ce484222325;

  absl::Duration now_ = absl::ZeroDuration();
  absl::Duration steady_ = absl::ZeroDuration();  // the coordinator's
  absl::Duration term_start_ = absl::ZeroDuration();
  absl::Duration timers_from_ = absl::ZeroDuration();
  absl::Duration frozen_until_ = absl::ZeroDuration();
  bool fresh_ = true;  // no event since the start
  std::map<std::string, Tracked> jobs_;
  std::set<std::string> open_;
  std::map<std::string, server::WorkerRow> workers_;
  std::map<std::string, absl::Duration> heard_;                      // worker_id to its last word in this term
  std::map<std::string, std::map<RankId, Standstill>> standstills_;  // by worker_id: ranks that its last beat named
  std::map<std::string, std::set<int>> problems_;                    // by worker_id: slots that it said cannot be used
  std::map<RankId, int64_t> collectives_;                            // most that a rank ever told of in this term
  std::map<RankId, absl::Duration> overdue_;                         // since when it must be found stuck
  std::set<std::string> acknowledged_;                               // jobs
  std::set<std::string> cancel_requested_;
  std::map<std::string, int64_t> acknowledged_checkpoints_;

  // Of the batch in hand.
  size_t log_taken_ = 0;
  std::map<std::string, std::optional<Tracked>> undo_;
  std::vector<std::pair<std::string, std::optional<absl::Duration>>> undo_heard_;
  std::map<std::string, std::optional<server::WorkerRow>> undo_workers_;
  bool undo_fresh_ = true;
  // Of the event in hand.
  std::map<std::string, int> kills_;  // that count: by job
  size_t known_workers_ = 0;
  std::set<std::string> hangs_;  // jobs of ranks that were found stuck
  std::string stepped_;          // a job that got something done
};

}  // namespace ham::simulation
