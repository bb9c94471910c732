// A worker as the protocol wants it to be: desired set in, observed set out, one simulated trainer a rank.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "absl/time/time.h"
#include "ham/v1/worker_service.pb.h"
#include "server/coordinator.h"

namespace ham::simulation {

// Uniform in [0, 1).
double Chance(std::mt19937_64& random);

using RankId = std::tuple<std::string, int, int>;  // (job, attempt, rank)

// A trainer, or what its agent still reports of it.
struct Process {
  int slot = 0;
  int world_size = 1;
  ham::v1::ObservedRank::State state = ham::v1::ObservedRank::STARTING;
  ham::v1::RankExit exit;
  int64_t iteration = 0;
  bool collective = false;  // iterations are collectives
  bool desired = true;
  absl::Duration stop_at = absl::InfiniteDuration();  // SIGTERM was sent; gone then
  bool alive() const { return state != ham::v1::ObservedRank::EXITED; }
};

// What a rank notices of its gang.
enum class Gang {
  kRuns,    // all ranks run: collectives complete
  kBroken,  // some do not: collectives time out in the end
  kDone,    // the last collective is over: a rank has ended with success
  kPool,    // there is none: the rank works by itself until it is stopped
};

// What goes wrong by chance, each a probability a second.
struct TrainerFaults {
  double crash = 0;
  double user_error = 0;
};

// Passive: the world moves it. Not thread-safe.
class SimulatedAgent {
 public:
  SimulatedAgent(std::string id, std::string worker_name, int slot_count)
      : worker_id(std::move(id)), name(std::move(worker_name)), slots(slot_count) {}

  ham::v1::RegisterWorker Registration() const;
  std::vector<ham::v1::ObservedRank> Observed() const;
  // Takes over a desired set. Returns a sentence if it asks for a slot on which another trainer is alive.
  std::optional<std::string> TakeDesired(int64_t version, const std::vector<server::DesiredRank>& desired,
                                         absl::Duration now, std::mt19937_64& random);
  // One second of all trainers. `gang_of(id, world_size)` gives the Gang of a rank.
  template <typename GangOf, typename OnSuccess>
  void Tick(absl::Duration now, const TrainerFaults& faults, std::mt19937_64& random, GangOf gang_of,
            OnSuccess on_success) {
    for (auto it = processes.begin(); it != processes.end();) {
      if (TickProcess(it->second, now, faults, random, gang_of(it->first, it->second.world_size))) {
        on_success(it->first);
      }
      // Its exit may be reported once more, or never.
      it = !it->second.desired && !it->second.alive() && Chance(random) < 0.5 ? processes.erase(it) : std::next(it);
    }
  }
  // The agent's process ends and takes its trainers along; the next one is a new incarnation.
  void Crash();

  const std::string worker_id;
  const std::string name;
  const int slots;
  int incarnation = 1;
  bool up = true;
  // The stream: 0 when there is none; the session is 0 until the welcome.
  int64_t connection = 0;
  int64_t session = 0;
  int64_t desired_version = 0;
  absl::Duration down_until = absl::ZeroDuration();  // cut off from the network, or not started
  std::map<RankId, Process> processes;

 private:
  // True when the process has just ended with success.
  static bool TickProcess(Process& process, absl::Duration now, const TrainerFaults& faults, std::mt19937_64& random,
                          Gang gang);
};

}  // namespace ham::simulation
