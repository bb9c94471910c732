// A cluster in one thread: the real core and policy; simulated clock, agents, clients, network and store. All chance
// comes from one seed, so that a seed replays a failure exactly.
//
// Files: world.cc (time, the coordinator's process), world_agents.cc (agents and their network), world_clients.cc.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "server/coordinator.h"
#include "server/scheduling_policy.h"
#include "tests/simulation/coverage.h"
#include "tests/simulation/faults.h"
#include "tests/simulation/promises.h"
#include "tests/simulation/random.h"
#include "tests/simulation/simulated_agent.h"

namespace ham::simulation {

struct WorldOptions {
  uint64_t seed = 1;
  absl::Duration lease = absl::Seconds(15);
  absl::Duration outage_bound = absl::Seconds(15);  // short outages last 0.5 to 0.9 of it
  FaultSet faults = FaultSet().set();
  int64_t faults_from = 0;   // no fault strikes before so many events
  std::set<size_t> without;  // agents that are not there
  bool healthy = false;      // only short outages, at a fixed rate; no cancellations
  bool trace = false;        // keeps what happened last as text
};

class World : private Truth {
 public:
  explicit World(const WorldOptions& options);

  // Until the core has been given `events` events, the time is there, or a promise is broken.
  void RunUntil(int64_t events, absl::Duration time);
  void RunFor(absl::Duration time);
  // Ends all faults, then runs until every job is final and every slot free: broken if not within `limit`.
  void RunToTheEnd(absl::Duration limit);

  const std::vector<Violation>& violations() const { return promises_.violations(); }
  const Coverage& coverage() const { return coverage_; }
  int64_t events() const { return promises_.events(); }
  absl::Duration now() const { return now_; }
  // Equal for equal walks.
  uint64_t digest() const { return digest_ ^ promises_.log_hash(); }
  const std::deque<std::string>& trace() const { return trace_; }

 private:
  // An event for the core with what its sender needs to know.
  struct Message {
    server::Event event;
    int64_t connection = 0;              // that it came on; 0 if it is a call of its own
    std::function<void(bool ok)> reply;  // after the commit; may be empty
  };
  struct Appointment {
    absl::Duration time;
    uint64_t number;  // first come, first served
    std::function<void()> action;
    bool operator<(const Appointment& other) const {
      return time != other.time ? time > other.time : number > other.number;
    }
  };

  // -- time and chance (world.cc)
  void At(absl::Duration time, std::function<void()> action);
  void Step();
  bool Draws(Fault fault) const;
  bool Strikes(Fault fault);
  void Struck(Fault fault, const std::string& whom);
  void Trace(const std::string& line);
  void TraceEvent(const server::Event& event, const absl::Status& status);
  server::Now CoreNow() const { return {now_ - process_start_, absl::UnixEpoch() + wall_offset_ + now_}; }

  // -- the coordinator's process (world.cc)
  void StartCoordinator();
  void KillCoordinator();
  void Deliver(Message message);
  void ArmBatch(absl::Duration time);
  void ProcessBatch();
  void ProcessWithoutStore(std::vector<Message> batch);
  void ReopenStore();
  void RunBatch(std::vector<Message> batch, bool store_fails);
  void FailBatch(std::vector<Message> batch, const std::string& before);
  void FinishBatch(std::vector<Message> batch);
  bool TimerIsDue() const;
  bool Apply(const Message& message);
  void ArmTimer();
  std::string Describe() const;

  // -- agents and network (world_agents.cc)
  void AddAgent(const std::string& id, const std::string& name, int slots);
  void AgentSecond(SimulatedAgent& agent);
  void StrikeAgent(SimulatedAgent& agent);
  void StrikeNetwork(SimulatedAgent& agent, absl::Duration up, absl::Duration down);
  void Freeze(SimulatedAgent& agent, absl::Duration time);
  void ShortOutage(SimulatedAgent& agent);
  void CrashAgent(SimulatedAgent& agent);
  void ReplaceHost(SimulatedAgent& agent);
  void TrainerSecond(SimulatedAgent& agent);
  void Connect(SimulatedAgent& agent);
  void Registered(SimulatedAgent& agent, int64_t connection, bool ok);
  void Beat(SimulatedAgent& agent);
  void Checkpoints(SimulatedAgent& agent);
  void Work(SimulatedAgent& agent);
  void FinishBlock(const std::string& job);
  bool Hits(const SimulatedAgent& agent, Fault fault);
  void SendUp(SimulatedAgent& agent, Message message);
  void Arrive(SimulatedAgent& agent, Message message, absl::Duration time);
  void Call(SimulatedAgent& agent, Message message);
  void Remember(const Message& message);
  void Replay();
  void SendDesired(SimulatedAgent& agent);
  void TakeDesired(SimulatedAgent& agent, int64_t connection, int64_t version,
                   const std::vector<server::DesiredRank>& desired);
  void BreakStream(SimulatedAgent& agent);
  void CloseAtAgent(const std::string& worker_id, int64_t connection);
  void HearEnd(SimulatedAgent& agent, int64_t connection);
  absl::Duration Latency() { return network_.Between(absl::Milliseconds(1), absl::Milliseconds(50)); }
  SimulatedAgent* FindAgent(const std::string& worker_id) const;
  std::shared_ptr<Gang> GangOf(const server::DesiredRank& rank);

  // -- Truth
  bool IsAlive(const std::string& job, int attempt, const server::Placement& place) const override;
  bool IsGone(const std::string& job, int attempt, const server::Placement& place) const override;
  bool WasStuck(const std::string& job, int attempt) const override;
  bool IsShielded(const std::string& worker_id) const override;
  bool IsGangDone(const server::JobRow& row) const override;
  bool IsPoolDone(const std::string& job) const override;

  // -- clients (world_clients.cc)
  void ClientStep();
  void FailSwitch();
  void Submit();
  void CancelOne();
  void DamageCheckpoint();
  void CancelUnfit();
  void Cancel(const std::string& job);

  const WorldOptions options_;
  server::CoordinatorOptions core_options_;
  bool faults_ = true;
  std::array<double, kFaultKinds> rates_;
  mutable std::vector<Random> fault_random_;  // by Fault
  Random network_;
  Random process_;
  Random clients_;
  absl::Duration now_ = absl::ZeroDuration();
  std::vector<Appointment> agenda_;  // a heap
  uint64_t next_appointment_ = 0;
  std::vector<std::unique_ptr<SimulatedAgent>> agents_;
  std::map<std::string, SimulatedAgent*> agent_by_id_;

  server::SubmitOrderGangs policy_;
  std::unique_ptr<server::Coordinator> core_;  // null while it is down
  int64_t term_ = 0;
  absl::Duration process_start_ = absl::ZeroDuration();
  absl::Duration wall_offset_ = absl::ZeroDuration();
  std::vector<Message> inbox_;
  bool batch_armed_ = false;
  absl::Duration timer_armed_ = absl::InfiniteDuration();
  absl::Duration timers_from_ = absl::ZeroDuration();
  absl::Duration paused_until_ = absl::ZeroDuration();
  absl::Duration store_fails_until_ = absl::ZeroDuration();
  bool store_failed_ = false;
  std::vector<Message> undone_;                       // ends of streams, which come again once it is open
  std::map<std::string, int64_t> server_connection_;  // worker_id to the stream that the coordinator uses
  std::set<int64_t> lingering_;                       // streams that have ended, of which messages still come
  std::vector<Message> remembered_;                   // of this term, for replays

  std::map<int64_t, std::string> incarnation_of_;                       // session to the agent that it was given to
  std::map<std::pair<std::string, int>, std::shared_ptr<Gang>> gangs_;  // by (job, attempt)
  std::map<std::pair<std::string, int>, std::set<int>> ended_well_;     // (job, attempt) to ranks
  std::map<std::string, int64_t> pool_work_;                            // durable blocks of each
  int64_t next_job_ = 1;
  int64_t next_connection_ = 1;
  int64_t next_host_ = 1;
  absl::Duration calm_from_ = absl::InfiniteDuration();

  Coverage coverage_;
  Promises promises_;
  uint64_t digest_ = 0xcbf29ce484222325;
  std::deque<std::string> trace_;
};

}  // namespace ham::simulation
