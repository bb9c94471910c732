// A worker as the protocol wants it to be: desired set in, observed set out, one simulated trainer a rank.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "ham/v1/worker_service.pb.h"
#include "server/coordinator.h"
#include "tests/simulation/random.h"

namespace ham::simulation {

using RankId = std::tuple<std::string, int, int>;  // (job, attempt, rank)

// What the ranks of an attempt notice of one another.
struct Gang {
  bool pool = false;  // they do not: each works by itself until it is stopped
  int world_size = 1;
  int running = 0;
  int stuck = 0;
  bool link_broken = false;      // all wait for each other
  bool was_stuck = false;        // or its link broken, at some time
  bool done = false;             // the last collective is over: a rank has ended with success
  std::optional<int> lost_rank;  // ended without it
  bool advances() const { return running == world_size && stuck == 0 && !link_broken; }
};

// A trainer, or what its agent still reports of it.
struct Process {
  std::shared_ptr<Gang> gang;
  int slot = 0;
  ham::v1::ObservedRank::State state = ham::v1::ObservedRank::STARTING;
  ham::v1::RankExit exit;
  int64_t iteration = 0;
  bool desired = true;
  absl::Duration stop_at = absl::InfiniteDuration();  // SIGTERM was sent; gone then
  bool stuck = false;
  bool alive() const { return state != ham::v1::ObservedRank::EXITED; }
};

// Passive: the world moves it. Not thread-safe.
class SimulatedAgent {
 public:
  SimulatedAgent(std::string id, std::string worker_name, int slot_count, uint64_t seed)
      : worker_id(std::move(id)), name(std::move(worker_name)), slots(slot_count), random(seed) {}

  std::string Incarnation() const;
  ham::v1::RegisterWorker Registration() const;
  std::vector<ham::v1::ObservedRank> Observed() const;
  server::WorkerBeat Beat() const;
  std::vector<ham::v1::SlotProblem> Problems() const;
  // Takes over a desired set. Returns a sentence if it asks for a slot on which another trainer is alive.
  std::optional<std::string> TakeDesired(int64_t version, const std::vector<server::DesiredRank>& desired,
                                         absl::Duration now,
                                         const std::function<std::shared_ptr<Gang>(const server::DesiredRank&)>& gang);
  // One second of a trainer without faults. True when it has just ended with success.
  bool Tick(const RankId& id, Process& process, absl::Duration now);
  void Exit(const RankId& id, Process& process, const ham::v1::RankExit& exit);
  void GetStuck(Process& process);
  // Starts no trainer any more and stops those it has, in 15 s at most.
  void BeginLeaving(absl::Duration now);
  bool HasTrainers() const;
  // Drops those that nobody wants and that have ended: an exit may be reported once more, or never.
  void ForgetEnded();
  // The agent's process ends and takes its trainers along; the next one is a new incarnation.
  void Crash();

  const std::string worker_id;
  const std::string name;
  const int slots;
  Random random;
  int incarnation = 1;
  bool up = true;
  bool gone = false;  // for good
  // The stream: 0 when there is none; the session is 0 until the welcome.
  int64_t connection = 0;
  int64_t session = 0;
  int64_t desired_version = 0;
  absl::Duration connect_time = absl::ZeroDuration();
  absl::Duration last_up = absl::ZeroDuration();  // when the newest message of this stream arrives: in order
  absl::Duration last_down = absl::ZeroDuration();
  absl::Duration down_until = absl::ZeroDuration();      // not started, or waits before it connects again
  absl::Duration frozen_until = absl::ZeroDuration();    // stopped
  absl::Duration cut_up_until = absl::ZeroDuration();    // nothing leaves it
  absl::Duration cut_down_until = absl::ZeroDuration();  // nothing reaches it
  absl::Duration shielded_from = absl::ZeroDuration();   // the beat before a short outage was heard
  absl::Duration shielded_until = absl::ZeroDuration();  // until some time after it nothing else strikes
  int problem_slot = 0;                                  // cannot be used
  absl::Duration problem_until = absl::ZeroDuration();
  bool has_problem = false;  // as its monitor saw last
  bool leaving = false;
  absl::Duration leave_by = absl::ZeroDuration();  // then it is gone at the latest
  std::map<RankId, Process> processes;
  std::set<RankId> ended;  // all that ever ran and do not

 private:
  static void Leave(const RankId& id, Process& process);
};

}  // namespace ham::simulation
