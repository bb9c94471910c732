// A cluster in one thread: the real core and policy; simulated clock, agents, clients, network and store. All chance
// comes from one seed. Every broken promise is kept as a sentence.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "server/coordinator.h"
#include "server/scheduling_policy.h"
#include "tests/simulation/simulated_agent.h"

namespace ham::simulation {

class World {
 public:
  explicit World(uint64_t seed);

  // Runs with all faults until the core has been given `events` events.
  void RunWithFaults(int64_t events);
  // Ends all faults, then runs until every job is final. False if one is not after `limit` of simulated time.
  bool RunToTheEnd(absl::Duration limit);

  const std::vector<std::string>& violations() const { return violations_; }
  // Counts of what happened, to see that a run was no idle one.
  std::map<std::string, int64_t> Statistics() const;
  std::string Unfinished() const;

 private:
  // An event for the core with what its sender needs to know.
  struct Message {
    server::Event event;
    int64_t connection = 0;              // of a registration
    std::function<void(bool ok)> reply;  // after the commit; may be empty
  };

  // -- time
  void At(absl::Duration time, std::function<void()> action);
  void Step();
  absl::Duration Between(absl::Duration low, absl::Duration high);
  server::Now CoreNow() const;

  // -- coordinator process
  void StartCoordinator();
  void KillCoordinator();
  void Deliver(Message message);
  void ProcessBatch();
  void RunBatch(std::vector<Message> batch, bool store_fails);
  void ApplyOne(const server::Event& event, Message& message, std::vector<bool>& accepted);
  void MakeDurable(const server::Effects& effects);
  void Act(const server::Effects& effects);
  void ArmTimer();

  // -- what must hold
  void Check(bool condition, const std::string& sentence);
  void CheckAnswer(const server::Event& event, const absl::Status& status);
  // Ranks of `before`, jobs as they were before a TimerFired, were given up with reason.
  void CheckLeases(const std::map<std::string, server::JobRow>& before);
  void CheckRow(const server::JobRow& row);
  std::string Describe() const;

  // -- agents and network
  void AgentSecond(SimulatedAgent& agent);
  void AgentConnect(SimulatedAgent& agent);
  void AgentBeat(SimulatedAgent& agent);
  void AgentCheckpoints(SimulatedAgent& agent);
  void AgentWork(SimulatedAgent& agent);
  bool IsPool(const std::string& job) const;
  void SendDesired(SimulatedAgent& agent);
  void BreakConnection(SimulatedAgent& agent);
  Gang GangOf(const RankId& id, int world_size) const;
  absl::Duration Latency();

  // -- clients
  void ClientStep();
  void Submit();
  void Cancel(const std::string& job);

  bool faults_ = true;
  std::mt19937_64 random_;
  absl::Duration now_ = absl::ZeroDuration();
  std::multimap<absl::Duration, std::function<void()>> agenda_;
  std::vector<std::unique_ptr<SimulatedAgent>> agents_;

  server::SubmitOrderGangs policy_;
  std::unique_ptr<server::Coordinator> core_;  // null while it is down
  int64_t term_ = 0;
  absl::Duration process_start_ = absl::ZeroDuration();
  absl::Duration wall_offset_ = absl::ZeroDuration();
  std::vector<Message> inbox_;
  bool batch_armed_ = false;
  int failing_batches_ = 0;      // for which the store still fails
  std::vector<Message> undone_;  // ends of streams, which come again once it is open
  absl::Duration timers_from_ = absl::ZeroDuration();
  absl::Duration term_start_ = absl::ZeroDuration();
  std::map<std::string, absl::Duration> heard_;       // worker_id to its last word in this term
  std::map<std::string, int64_t> server_connection_;  // worker_id to the stream that the coordinator uses
  std::map<int64_t, absl::Duration> downlink_;        // connection to the time its last message arrives: in order

  // Durable.
  std::map<std::string, server::JobRow> stored_jobs_;
  std::map<std::string, server::WorkerRow> stored_workers_;
  std::map<std::string, ham::v1::Job::State> log_state_;  // to_state of each job's last event
  std::map<std::string, int> log_attempt_;                // of its last GANG_PLACED

  // The model.
  std::set<std::string> acknowledged_;
  std::set<std::string> cancel_requested_;
  std::map<std::string, int64_t> pool_work_;                         // durable blocks of each
  std::map<std::pair<std::string, int>, std::set<int>> ended_well_;  // (job, attempt) to ranks
  int64_t next_job_ = 1;
  int64_t next_connection_ = 1;
  int64_t applied_ = 0;
  std::map<std::string, int64_t> counts_;
  std::vector<std::string> violations_;
};

}  // namespace ham::simulation
