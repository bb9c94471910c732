// What an agent does about its assignments: the pure core of the agent.
//
//   (desired set, facts about ranks, now) -> actions
//
// Level-triggered: the newest desired set says what should run; whatever runs beside it is stopped (TERM, then KILL
// after terminate_grace). A rank starts once the process before it on its slot is gone. An ended rank is reported as
// EXITED when its records are acknowledged, and for as long as it is desired; one that is no longer desired is
// forgotten, with its records, once they are acknowledged. A rank that failed, or that nobody wants, waits at most
// flush_limit for that.
//
// No threads, clocks, processes or gRPC inside; iteration is over ordered containers only. Owned by one thread.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "ham/v1/worker_service.pb.h"

namespace ham::agent {

struct RankId {
  std::string job;  // resource name
  int attempt = 0;
  int rank = 0;
  auto operator<=>(const RankId&) const = default;
};

struct AssignmentOptions {
  absl::Duration terminate_grace = absl::Seconds(15);  // TERM to KILL
  absl::Duration flush_limit = absl::Seconds(10);
  absl::Duration orphan_limit = absl::Hours(1);      // without contact, before all ranks are stopped
  absl::Duration shutdown_flush = absl::Seconds(2);  // flush_limit once the agent stops
};

// Make the process, its spool and its folder. Answered by Exited, whatever goes wrong.
struct StartRank {
  ham::v1::Assignment assignment;
};
struct TerminateRank {
  RankId id;
};
struct KillRank {
  RankId id;
};
// To a rank that runs: of an evaluation, all that it is to do now. What it starts with is in its assignment.
struct GiveWork {
  RankId id;
  google::protobuf::RepeatedPtrField<ham::v1::WorkBlock> blocks;
};
// The process is gone: drop spool and folder. Exactly one for each StartRank.
struct ForgetRank {
  RankId id;
};
using Action = std::variant<StartRank, TerminateRank, KillRank, GiveWork, ForgetRank>;

class Assignments {
 public:
  // `now` is steady time since any origin; it must not go back from call to call.
  Assignments(const AssignmentOptions& options, absl::Duration now) : options_(options), contact_lost_(now) {}

  // From Welcome.
  void SetTerminateGrace(absl::Duration grace) { options_.terminate_grace = grace; }

  // ---- facts; each may produce actions
  void Desire(const ham::v1::DesiredAssignments& desired, absl::Duration now);
  // Contact again; ranks that wait are started by the next desired set.
  void Connected();
  void Disconnected(absl::Duration now);
  // A frame of the trainer. The state is RUNNING from the first train, evaluate or save.
  void Progressed(const RankId& id, const ham::v1::Progress& progress);
  // The process is gone and all it wrote is in the spool. `flushed`: the spool is acknowledged.
  void Exited(const RankId& id, const ham::v1::RankExit& exit, bool flushed, absl::Duration now);
  // The spool of an ended rank is acknowledged.
  void Flushed(const RankId& id);
  // Exits in Observed(), ever. Once those up to a number are known to have left, call Told().
  int64_t exits() const { return exits_; }
  void Told(int64_t exits);
  // The coordinator refused its records: the attempt is no longer current.
  void Fenced(const RankId& id, absl::Duration now);
  // Stops every rank; nothing is started any more.
  void Shutdown(absl::Duration now);
  // Kills what is still being stopped.
  void KillNow();
  // All ranks belong to another cluster: stops them and drops their records.
  void Abandon(absl::Duration now);
  // Call at NextTimer() or later.
  void Tick(absl::Duration now);

  // Since the last call, in order.
  std::vector<Action> TakeActions();
  // True if a rank changed its state since the last call: a beat is due.
  bool TakeChanged();

  // InfiniteDuration if nothing is waited for.
  absl::Duration NextTimer() const;
  std::vector<ham::v1::ObservedRank> Observed() const;  // by id
  // Every process is gone and every exit could be reported or its time is over.
  bool Settled() const;
  bool has_processes() const;

 private:
  enum class Phase {
    kWaiting,   // for the slot; not started
    kStarting,  // started
    kRunning,
    kFlushing,  // process gone, records not acknowledged
    kExited,    // to be reported
  };
  struct Rank {
    ham::v1::Assignment assignment;
    Phase phase = Phase::kWaiting;
    bool desired = true;
    bool stopping = false;  // TERM was sent
    bool killed = false;
    bool fenced = false;
    bool untold = false;  // it failed by itself, which the coordinator is to know even if it no longer wants the rank
    absl::Duration kill_at = absl::InfiniteDuration();
    absl::Duration give_up_at = absl::InfiniteDuration();  // kFlushing: no longer waits for acknowledgement
    ham::v1::Progress progress;
    ham::v1::RankExit exit;
    int64_t exit_number = 0;  // kExited: of exits_

    bool alive() const { return phase == Phase::kStarting || phase == Phase::kRunning; }
    ham::v1::ObservedRank::State reported_state = ham::v1::ObservedRank::STARTING;  // before it exited
  };
  using Ranks = std::map<RankId, Rank>;

  // Of the newest desired set.
  void SetBlocks(Rank& rank, const ham::v1::Assignment& desired);
  void Stop(const RankId& id, Rank& rank, absl::Duration now);
  void StopAll(absl::Duration now);
  void LimitFlush(Rank& rank, absl::Duration now);
  // Moves an ended rank on; erases it when nothing is left to do, and returns what follows it.
  Ranks::iterator Settle(Ranks::iterator it, bool flushed);
  void StartWaiting();

  AssignmentOptions options_;
  Ranks ranks_;
  absl::Duration contact_lost_;  // InfiniteDuration while connected
  bool orphaned_ = false;        // the orphan limit passed; nothing is started
  bool shutdown_ = false;
  bool changed_ = false;
  int64_t exits_ = 0;
  std::vector<Action> actions_;
};

RankId IdOf(const ham::v1::Assignment& assignment);

}  // namespace ham::agent
