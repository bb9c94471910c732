// Agents, their trainers, and the network between them and the coordinator.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/simulation/beat_gaps.h"
#include "tests/simulation/world.h"

namespace ham::simulation {

using ham::v1::ObservedRank;

namespace {

constexpr int64_t kPoolBlocks = 20;
constexpr absl::Duration kKeepalive = absl::Seconds(20);        // a stream on which nothing comes for so long is over
constexpr absl::Duration kWelcomeTimeout = absl::Seconds(10);   // then the agent tries another stream
constexpr absl::Duration kSoonHeard = absl::Milliseconds(100);  // latency and batch
constexpr size_t kRemembered = 64;

}  // namespace

void World::AddAgent(const std::string& id, const std::string& name, int slots) {
  const size_t number = agents_.size();
  agents_.push_back(std::make_unique<SimulatedAgent>(id, name, slots, Random(options_.seed, 1000 + number).Next()));
  SimulatedAgent& agent = *agents_.back();
  agent_by_id_[id] = &agent;
  agent.gone = options_.without.count(number) != 0;
  At(now_ + agent.random.Between(absl::ZeroDuration(), absl::Seconds(1)), [this, &agent] { AgentSecond(agent); });
}

SimulatedAgent* World::FindAgent(const std::string& worker_id) const {
  const auto found = agent_by_id_.find(worker_id);
  return found == agent_by_id_.end() ? nullptr : found->second;
}

// A short outage is to be the only thing that befalls an agent.
bool World::Hits(const SimulatedAgent& agent, Fault fault) {
  if (!Draws(fault) || now_ < agent.shielded_until) return false;
  Struck(fault, agent.worker_id);
  return true;
}

// ---- a second of an agent ----------------------------------------------------------------------------------

void World::AgentSecond(SimulatedAgent& agent) {
  if (agent.gone) return;
  At(now_ + DrawBeatGap(agent.random), [this, &agent] { AgentSecond(agent); });
  StrikeAgent(agent);
  agent.has_problem = now_ < agent.problem_until;
  if (!agent.up && !agent.gone && now_ >= agent.down_until) agent.up = true;
  if (!agent.up) return;
  TrainerSecond(agent);
  if (now_ < agent.frozen_until) return;
  if (agent.leaving && now_ >= agent.leave_by) return CrashAgent(agent);
  if (agent.connection == 0) {
    const absl::Duration ready = std::max({agent.down_until, agent.cut_up_until, agent.cut_down_until});
    if (now_ >= ready && core_ != nullptr && agent.random.Chance(0.5)) Connect(agent);
    return;
  }
  if (agent.session == 0) {
    if (now_ >= agent.connect_time + kWelcomeTimeout) BreakStream(agent);
    return;
  }
  Beat(agent);
  if (agent.leaving && !agent.HasTrainers()) return CrashAgent(agent);
  Checkpoints(agent);
  Work(agent);
}

void World::StrikeAgent(SimulatedAgent& agent) {
  if (!faults_) return;
  if (Hits(agent, Fault::kReplay)) Replay();
  if (Hits(agent, Fault::kHostGone)) return ReplaceHost(agent);
  if (!agent.up) return;
  if (Hits(agent, Fault::kAgentCrash)) return CrashAgent(agent);
  if (!agent.leaving && Hits(agent, Fault::kAgentLeaves)) agent.BeginLeaving(now_);
  const absl::Duration time = agent.random.Between(absl::Seconds(1), absl::Seconds(agent.random.Chance(0.3) ? 90 : 10));
  if (Hits(agent, Fault::kPartitionUp)) StrikeNetwork(agent, now_ + time, now_);
  if (Hits(agent, Fault::kPartitionDown)) StrikeNetwork(agent, now_, now_ + time);
  if (Hits(agent, Fault::kPartition)) StrikeNetwork(agent, now_ + time, now_ + time);
  if (Hits(agent, Fault::kSlotProblem)) {
    agent.problem_slot = static_cast<int>(agent.random.Below(static_cast<uint64_t>(agent.slots)));
    agent.problem_until = now_ + time;
  }
  if (Hits(agent, Fault::kAgentSilent)) Freeze(agent, time);
  if (agent.connection == 0 || now_ < agent.frozen_until) return;
  if (Hits(agent, Fault::kBrokenStream)) {
    BreakStream(agent);
    agent.down_until = now_ + agent.random.Between(absl::ZeroDuration(), absl::Seconds(5));
    return;
  }
  const bool clear = now_ >= agent.last_up && now_ >= agent.cut_up_until && now_ >= agent.cut_down_until;
  const bool well = agent.session != 0 && clear;
  if (well && Hits(agent, Fault::kShortOutage)) ShortOutage(agent);
}

// Messages wait; the stream ends if that takes too long.
void World::StrikeNetwork(SimulatedAgent& agent, absl::Duration up, absl::Duration down) {
  agent.cut_up_until = std::max(agent.cut_up_until, up);
  agent.cut_down_until = std::max(agent.cut_down_until, down);
  const int64_t connection = agent.connection;
  if (connection == 0 || std::max(up, down) - now_ <= kKeepalive) return;
  At(now_ + kKeepalive, [this, &agent, connection] {
    if (agent.connection == connection) BreakStream(agent);
  });
}

void World::Freeze(SimulatedAgent& agent, absl::Duration time) {
  agent.frozen_until = std::max(agent.frozen_until, now_ + time);
  const int64_t connection = agent.connection;
  if (connection == 0) return;
  if (time > kKeepalive) {
    At(now_ + kKeepalive, [this, &agent, connection] {
      if (agent.connection == connection) BreakStream(agent);
    });
  }
  At(agent.frozen_until, [this, &agent, connection] {  // its timer was due long ago
    if (agent.connection == connection && agent.session != 0 && now_ >= agent.frozen_until) Beat(agent);
  });
}

// Nothing is heard between a beat that arrives at once and one right after the outage.
void World::ShortOutage(SimulatedAgent& agent) {
  const absl::Duration time = (0.5 + 0.4 * agent.random.Unit()) * options_.outage_bound;
  agent.shielded_from = now_ + kSoonHeard;
  agent.shielded_until = now_ + time + absl::Seconds(2);
  Beat(agent);
  switch (agent.random.Below(3)) {
    case 0:
      return Freeze(agent, time);
    case 1:
      return StrikeNetwork(agent, now_ + time, now_);
    default:
      return StrikeNetwork(agent, now_ + time, now_ + time);
  }
}

void World::CrashAgent(SimulatedAgent& agent) {
  BreakStream(agent);
  agent.Crash();
  agent.frozen_until = now_;
  agent.down_until = now_ + agent.random.Between(absl::ZeroDuration(), absl::Seconds(40));
}

// The next one has a new worker_id; it may have the old name.
void World::ReplaceHost(SimulatedAgent& agent) {
  BreakStream(agent);
  agent.Crash();
  agent.gone = true;
  const int64_t number = next_host_++;
  AddAgent(absl::StrCat("n", number), agent.random.Chance(0.5) ? agent.name : absl::StrCat("new-", number),
           agent.slots);
}

void World::TrainerSecond(SimulatedAgent& agent) {
  const auto fail = [&agent](const RankId& id, Process& process, ham::v1::FailureClass failure_class) {
    ham::v1::RankExit exit;
    exit.set_exit_code(1);
    exit.set_failure_class(failure_class);
    agent.Exit(id, process, exit);
  };
  for (auto& [id, process] : agent.processes) {
    if (!process.alive()) continue;
    if (process.stop_at != absl::InfiniteDuration() && Hits(agent, Fault::kTrainerGoesOn)) {
      process.stop_at = now_ + agent.random.Between(absl::Minutes(1), absl::Minutes(4));
    }
    const bool works = process.state == ObservedRank::RUNNING && (process.gang->pool || process.gang->advances());
    if (Hits(agent, Fault::kTrainerCrash)) {
      fail(id, process, ham::v1::TRAINER_CRASH);
    } else if (Hits(agent, Fault::kUserError)) {
      fail(id, process, ham::v1::USER);
    } else if (Hits(agent, Fault::kTrainerPreempted)) {
      fail(id, process, ham::v1::PREEMPTED);
    } else if (agent.Tick(id, process, now_)) {
      ended_well_[std::make_pair(std::get<0>(id), std::get<1>(id))].insert(std::get<2>(id));
    } else if (works && Hits(agent, Fault::kTrainerStuck)) {
      agent.GetStuck(process);
    } else if (works && !process.gang->pool && Hits(agent, Fault::kLinkBroken)) {
      process.gang->link_broken = process.gang->was_stuck = true;
    }
  }
  agent.ForgetEnded();
}

// ---- up ----------------------------------------------------------------------------------------------------

void World::Connect(SimulatedAgent& agent) {
  const int64_t connection = agent.connection = next_connection_++;
  agent.session = 0;
  agent.desired_version = 0;
  agent.connect_time = agent.last_up = agent.last_down = now_;
  server::WorkerRegistered event;
  event.registration = agent.Registration();
  event.registration.set_stream(connection);
  SendUp(agent, {.event = std::move(event), .connection = connection, .reply = [this, &agent, connection](bool ok) {
                   Registered(agent, connection, ok);
                 }});
}

void World::Registered(SimulatedAgent& agent, int64_t connection, bool ok) {
  if (agent.connection != connection) {
    if (ok) HearEnd(agent, connection);
    return;
  }
  if (agent.session != 0) return;  // welcome already: this is the answer to a replay
  if (!ok) {
    agent.connection = 0;
    agent.down_until = now_ + agent.random.Between(absl::Seconds(1), absl::Seconds(20));
    return;
  }
  const int64_t session = core_->FindWorker(agent.worker_id)->session;
  agent.last_down = std::max({agent.last_down, now_ + Latency(), agent.cut_down_until});
  At(agent.last_down, [&agent, connection, session] {
    if (agent.connection == connection) agent.session = session;
  });
}

void World::Beat(SimulatedAgent& agent) {
  SendUp(agent, {.event = agent.Beat(), .connection = agent.connection, .reply = nullptr});
}

void World::Checkpoints(SimulatedAgent& agent) {
  for (const auto& [id, process] : agent.processes) {
    const bool saves = std::get<2>(id) == 0 && !process.gang->pool && !process.stuck;
    if (process.state != ObservedRank::RUNNING || !saves || !agent.random.Chance(0.1)) continue;
    server::CheckpointCommitted commit;
    commit.session = agent.session;
    commit.job = std::get<0>(id);
    commit.checkpoint.set_attempt(std::get<1>(id));
    commit.checkpoint.set_iteration(process.iteration);
    commit.checkpoint.set_manifest_digest(absl::StrCat(std::get<1>(id), "/", process.iteration));
    Call(agent, {.event = std::move(commit), .reply = nullptr});
  }
}

// Ranks of pools finish blocks.
void World::Work(SimulatedAgent& agent) {
  for (const auto& [id, process] : agent.processes) {
    const bool works = process.gang->pool && !process.stuck;
    if (process.state != ObservedRank::RUNNING || !works || !agent.random.Chance(0.2)) continue;
    if (now_ < agent.cut_up_until || Hits(agent, Fault::kLoss)) continue;
    At(now_ + Latency(),
       [this, job = std::get<0>(id), session = agent.session, attempt = std::get<1>(id), term = term_] {
         if (term != term_ || core_ == nullptr || !core_->CheckFence(session, job, attempt).ok()) return;
         Deliver({.event = server::WorkFinished{job}, .reply = [this, job](bool ok) {
                    if (ok) FinishBlock(job);
                  }});
       });
  }
}

// Who finishes the last one leads to the record, of which the core may hear twice, or late.
void World::FinishBlock(const std::string& job) {
  if (++pool_work_[job] < kPoolBlocks) return;
  const int copies = 1 + static_cast<int>(process_.Below(2));
  for (int i = 0; i < copies; ++i) {
    At(now_ + Latency(), [this, job] {
      if (core_ != nullptr) Deliver({.event = server::EvaluationRecorded{job, "r"}, .reply = nullptr});
    });
  }
}

// On the agent's stream: in order, as long as it lasts.
void World::SendUp(SimulatedAgent& agent, Message message) {
  if (!std::holds_alternative<server::WorkerRegistered>(message.event) && Hits(agent, Fault::kLoss)) return;
  absl::Duration time = std::max({agent.last_up, now_ + Latency(), agent.cut_up_until});
  if (Hits(agent, Fault::kDelay)) time += network_.Between(absl::Milliseconds(100), absl::Seconds(10));
  agent.last_up = time;
  Remember(message);
  if (Hits(agent, Fault::kDuplicate)) {
    Message copy = message;
    copy.reply = nullptr;  // its sender has one from the first
    Arrive(agent, std::move(copy), time + network_.Between(absl::ZeroDuration(), absl::Seconds(30)));
  }
  Arrive(agent, std::move(message), time);
}

void World::Arrive(SimulatedAgent& agent, Message message, absl::Duration time) {
  At(time, [this, &agent, message = std::move(message), term = term_] {
    if (term != term_ || core_ == nullptr) return;
    if (agent.connection == message.connection || lingering_.count(message.connection) != 0) Deliver(message);
  });
}

// A call of its own: it overtakes, and is overtaken.
void World::Call(SimulatedAgent& agent, Message message) {
  if (now_ < agent.cut_up_until || Hits(agent, Fault::kLoss)) return;
  absl::Duration time = now_ + Latency();
  if (Hits(agent, Fault::kDelay)) time += network_.Between(absl::Milliseconds(100), absl::Seconds(30));
  Remember(message);
  const int copies = Hits(agent, Fault::kDuplicate) ? 2 : 1;
  for (int i = 0; i < copies; ++i) {
    At(time + i * network_.Between(absl::ZeroDuration(), absl::Seconds(30)), [this, message, term = term_] {
      if (term == term_ && core_ != nullptr) Deliver(message);
    });
  }
}

void World::Remember(const Message& message) {
  if (remembered_.size() < kRemembered) {
    remembered_.push_back(message);
  } else if (const size_t place = network_.Below(16 * kRemembered); place < kRemembered) {
    remembered_[place] = message;
  }
}

void World::Replay() {
  if (core_ != nullptr && !remembered_.empty()) Deliver(remembered_[network_.Below(remembered_.size())]);
}

// ---- down --------------------------------------------------------------------------------------------------

void World::SendDesired(SimulatedAgent& agent) {
  const auto stream = server_connection_.find(agent.worker_id);
  if (stream == server_connection_.end()) return;
  const std::vector<server::DesiredRank> desired = core_->Desired(agent.worker_id);
  promises_.CheckDesired(agent.worker_id, desired);
  if (stream->second != agent.connection) return;
  absl::Duration time = std::max({agent.last_down, now_ + Latency(), agent.cut_down_until});
  if (Hits(agent, Fault::kDelay)) time += network_.Between(absl::Milliseconds(100), absl::Seconds(10));
  agent.last_down = time;
  At(time, [this, &agent, connection = agent.connection, desired, version = core_->DesiredVersion(agent.worker_id)] {
    TakeDesired(agent, connection, version, desired);
  });
}

void World::TakeDesired(SimulatedAgent& agent, int64_t connection, int64_t version,
                        const std::vector<server::DesiredRank>& desired) {
  if (agent.connection != connection || !agent.up) return;
  if (now_ < agent.frozen_until) {
    return At(agent.frozen_until,
              [this, &agent, connection, version, desired] { TakeDesired(agent, connection, version, desired); });
  }
  const auto conflict =
      agent.TakeDesired(version, desired, now_, [this](const server::DesiredRank& rank) { return GangOf(rank); });
  if (conflict) promises_.Check(false, "a slot has one trainer", *conflict);
}

std::shared_ptr<Gang> World::GangOf(const server::DesiredRank& rank) {
  std::shared_ptr<Gang>& gang = gangs_[std::make_pair(rank.job, rank.attempt)];
  if (gang == nullptr) {
    gang = std::make_shared<Gang>();
    gang->pool = promises_.Find(rank.job)->pool;
    gang->world_size = rank.world_size;
  }
  return gang;
}

// ---- the end of a stream -----------------------------------------------------------------------------------

// What was on its way is lost, or comes late, with a last message that the agent thought lost.
void World::BreakStream(SimulatedAgent& agent) {
  if (agent.connection == 0) return;
  agent.shielded_until = absl::ZeroDuration();
  const int64_t connection = agent.connection;
  if (core_ != nullptr && agent.session != 0 && Hits(agent, Fault::kReorder)) {
    lingering_.insert(connection);
    Arrive(agent, {.event = agent.Beat(), .connection = connection, .reply = nullptr},
           std::max(agent.last_up, now_ + network_.Between(absl::ZeroDuration(), absl::Seconds(30))));
  } else if (core_ != nullptr && agent.session == 0 && Hits(agent, Fault::kReorder)) {
    lingering_.insert(connection);  // its registration may come after that of the next stream
  }
  agent.connection = 0;
  HearEnd(agent, connection);
}

// The coordinator hears of it some time later.
void World::HearEnd(SimulatedAgent& agent, int64_t connection) {
  At(now_ + network_.Between(absl::ZeroDuration(), absl::Seconds(25)), [this, &agent, connection, term = term_] {
    if (term != term_ || core_ == nullptr) return;
    const auto worker = core_->FindWorker(agent.worker_id);
    if (!worker) return;
    Deliver({.event = server::WorkerDisconnected{agent.worker_id, worker->session},
             .connection = connection,
             .reply = nullptr});
  });
}

// The coordinator ended it.
void World::CloseAtAgent(const std::string& worker_id, int64_t connection) {
  SimulatedAgent* agent = FindAgent(worker_id);
  if (connection == 0 || agent == nullptr) return;
  At(now_ + Latency(), [this, agent, connection] {
    if (agent->connection == connection) BreakStream(*agent);
  });
}

// ---- truth -------------------------------------------------------------------------------------------------

bool World::IsAlive(const std::string& job, int attempt, const server::Placement& place) const {
  const SimulatedAgent* agent = FindAgent(place.worker_id);
  if (agent == nullptr) return false;
  const auto process = agent->processes.find({job, attempt, place.rank});
  return process != agent->processes.end() && process->second.alive();
}

bool World::IsGone(const std::string& job, int attempt, const server::Placement& place) const {
  const SimulatedAgent* agent = FindAgent(place.worker_id);
  if (agent == nullptr) return false;
  const RankId id = {job, attempt, place.rank};
  if (agent->gone || agent->ended.count(id) != 0) return true;
  if (agent->leaving && agent->processes.count(id) == 0) return true;  // it will not be started
  const auto given = incarnation_of_.find(place.session);
  return given != incarnation_of_.end() && given->second != agent->Incarnation();
}

bool World::WasStuck(const std::string& job, int attempt) const {
  const auto gang = gangs_.find({job, attempt});
  return gang != gangs_.end() && gang->second->was_stuck;
}

bool World::IsShielded(const std::string& worker_id) const {
  const SimulatedAgent* agent = FindAgent(worker_id);
  return agent != nullptr && now_ >= agent->shielded_from && now_ < agent->shielded_until;
}

bool World::IsGangDone(const server::JobRow& row) const {
  const auto done = ended_well_.find({row.name, row.attempt});
  return done != ended_well_.end() && done->second.size() == static_cast<size_t>(row.world_size);
}

bool World::IsPoolDone(const std::string& job) const {
  const auto work = pool_work_.find(job);
  return work != pool_work_.end() && work->second >= kPoolBlocks;
}

}  // namespace ham::simulation
