#include "tests/simulation/world.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/job_state.h"

namespace ham::simulation {

using ham::v1::Job;
using ham::v1::ObservedRank;

namespace {

constexpr absl::Duration kLease = absl::Seconds(15);
constexpr int kMaxJobs = 900;  // checks after each event look at all jobs
constexpr int64_t kPoolBlocks = 20;

}  // namespace

World::World(uint64_t seed) : random_(seed) {
  const int slots[] = {1, 2, 3, 1, 2, 2};
  for (int i = 0; i < 6; ++i) {
    agents_.push_back(std::make_unique<SimulatedAgent>(absl::StrCat("id-", i), absl::StrCat("worker-", i), slots[i]));
  }
  agents_.push_back(std::make_unique<SimulatedAgent>("id-rival", "worker-5", 2));  // claims another's name
  for (auto& agent : agents_) {
    At(Between(absl::ZeroDuration(), absl::Seconds(1)), [this, a = agent.get()] { AgentSecond(*a); });
  }
  At(absl::ZeroDuration(), [this] { StartCoordinator(); });
  At(absl::Seconds(1), [this] { ClientStep(); });
}

// ---- time --------------------------------------------------------------------------------------------------

void World::At(absl::Duration time, std::function<void()> action) { agenda_.emplace(time, std::move(action)); }

void World::Step() {
  auto next = agenda_.extract(agenda_.begin());
  now_ = std::max(now_, next.key());
  next.mapped()();
}

absl::Duration World::Between(absl::Duration low, absl::Duration high) { return low + (high - low) * Chance(random_); }

server::Now World::CoreNow() const { return {now_ - process_start_, absl::UnixEpoch() + wall_offset_ + now_}; }

void World::RunWithFaults(int64_t events) {
  while (applied_ < events && violations_.empty()) Step();
}

bool World::RunToTheEnd(absl::Duration limit) {
  faults_ = false;
  failing_batches_ = std::min(failing_batches_, 1);
  for (auto& agent : agents_) agent->down_until = std::min(agent->down_until, now_ + absl::Seconds(60));
  SimulatedAgent& lost = *agents_[2];  // one machine never comes back
  BreakConnection(lost);
  lost.Crash();
  lost.down_until = absl::InfiniteDuration();
  const absl::Duration end = now_ + limit;
  while (now_ < end && violations_.empty()) {
    if (core_ != nullptr && Unfinished().empty()) return true;
    const absl::Duration until = now_ + absl::Seconds(1);
    while (now_ < until) Step();
  }
  return false;
}

std::map<std::string, int64_t> World::Statistics() const {
  std::map<std::string, int64_t> statistics = counts_;
  for (const auto& [name, row] : stored_jobs_) ++statistics[absl::StrCat("jobs ", Job::State_Name(row.state))];
  statistics["events"] = applied_;
  statistics["simulated minutes"] = absl::ToInt64Minutes(now_);
  return statistics;
}

std::string World::Unfinished() const {
  std::vector<std::string> open;
  for (const auto& [name, row] : stored_jobs_) {
    if (!IsFinal(row.state)) {
      open.push_back(absl::StrCat(name, " is ", Job::State_Name(row.state), ", ", row.state_reason));
    }
  }
  return absl::StrJoin(open, "; ");
}

// ---- coordinator process -----------------------------------------------------------------------------------

void World::StartCoordinator() {
  ++term_;
  ++counts_["coordinator starts"];
  process_start_ = now_ - Between(absl::ZeroDuration(), absl::Seconds(1));
  wall_offset_ = Between(-absl::Hours(1), absl::Hours(1));
  server::CoordinatorOptions options;
  options.lease = kLease;
  core_ = std::make_unique<server::Coordinator>(options, &policy_);
  std::vector<server::JobRow> jobs;
  std::vector<server::WorkerRow> workers;
  for (const auto& [name, row] : stored_jobs_) jobs.push_back(row);
  for (const auto& [id, row] : stored_workers_) workers.push_back(row);
  core_->Restore(std::move(jobs), std::move(workers), CoreNow());
  failing_batches_ = 0;
  undone_.clear();
  heard_.clear();
  timers_from_ = term_start_ = now_;
  ArmTimer();
}

void World::KillCoordinator() {
  core_.reset();
  inbox_.clear();
  batch_armed_ = false;
  ++term_;  // what is on its way never arrives
  for (auto& agent : agents_) agent->connection = 0;
  server_connection_.clear();
  downlink_.clear();
  At(now_ + Between(absl::ZeroDuration(), absl::Seconds(20)), [this] { StartCoordinator(); });
}

void World::Deliver(Message message) {
  inbox_.push_back(std::move(message));
  if (batch_armed_) return;
  batch_armed_ = true;
  At(now_ + Between(absl::ZeroDuration(), absl::Milliseconds(20)), [this, term = term_] {
    if (term == term_ && core_ != nullptr) ProcessBatch();
  });
}

// As the loop does: while the store fails each request stands alone, what would have to be durable is refused, and
// nothing times out; then workers have a lease to be heard.
void World::ProcessBatch() {
  batch_armed_ = false;
  std::vector<Message> batch = std::exchange(inbox_, {});
  if (failing_batches_ > 0 && --failing_batches_ == 0) {
    timers_from_ = now_ + kLease;
    for (Message& message : std::exchange(undone_, {})) Deliver(std::move(message));
  }
  if (failing_batches_ == 0) return RunBatch(std::move(batch), faults_ && Chance(random_) < 0.002);
  for (Message& message : batch) {
    if (core_ == nullptr) return;
    ++counts_["requests while the store fails"];
    const bool durable = std::holds_alternative<server::SubmitJob>(message.event) ||
                         std::holds_alternative<server::CancelJob>(message.event) ||
                         std::holds_alternative<server::CheckpointCommitted>(message.event);
    if (durable && message.reply) message.reply(false);
    if (durable || std::holds_alternative<server::TimerFired>(message.event)) continue;
    std::vector<Message> one;
    one.push_back(std::move(message));
    RunBatch(std::move(one), true);
  }
}

void World::RunBatch(std::vector<Message> batch, bool store_fails) {
  const std::string before = store_fails ? Describe() : "";
  const std::map<std::string, absl::Duration> heard = heard_;
  std::vector<bool> accepted;
  for (Message& message : batch) ApplyOne(message.event, message, accepted);
  if (store_fails && !core_->pending().durable_empty()) {
    ++counts_["store failures"];
    if (failing_batches_ == 0) failing_batches_ = 1 + static_cast<int>(random_() % 300);
    core_->RollbackBatch();
    heard_ = heard;
    const std::string after = Describe();
    const auto differ = std::mismatch(before.begin(), before.end(), after.begin(), after.end());
    Check(before == after, absl::StrCat("a rollback left something behind: was ",
                                        before.substr(static_cast<size_t>(differ.first - before.begin()), 40), ", is ",
                                        after.substr(static_cast<size_t>(differ.first - before.begin()), 40)));
    Check(core_->CheckInvariants().empty(), "a rollback broke an invariant");
    if (faults_ && Chance(random_) < 0.05) return KillCoordinator();
    for (Message& message : batch) {
      if (message.reply) message.reply(false);
      if (std::holds_alternative<server::WorkerDisconnected>(message.event)) undone_.push_back(std::move(message));
    }
    return ArmTimer();
  }
  const server::Effects effects = core_->CommitBatch();
  MakeDurable(effects);
  if (faults_ && Chance(random_) < 0.0005) return KillCoordinator();  // durable, but nobody was told
  for (size_t i = 0; i < batch.size(); ++i) {
    if (batch[i].reply) batch[i].reply(accepted[i]);
  }
  Act(effects);
  if (faults_ && Chance(random_) < 0.0005) return KillCoordinator();
  ArmTimer();
}

void World::ApplyOne(const server::Event& event, Message& message, std::vector<bool>& accepted) {
  // A worker has one stream at a time: what closes an older one says nothing about it.
  if (const auto* gone = std::get_if<server::WorkerDisconnected>(&event)) {
    const auto current = server_connection_.find(gone->worker_id);
    if (current == server_connection_.end() || current->second != message.connection) {
      accepted.push_back(false);
      return;
    }
  }
  const bool timer = std::holds_alternative<server::TimerFired>(event);
  const std::map<std::string, server::JobRow> before = timer ? core_->jobs() : std::map<std::string, server::JobRow>();
  const absl::Status status = core_->Apply(event, CoreNow(), 2 * Chance(random_) - 1);
  ++applied_;
  accepted.push_back(status.ok());
  if (const auto* beat = std::get_if<server::WorkerBeat>(&event); beat != nullptr && status.ok()) {
    heard_[beat->worker_id] = now_;
  }
  if (const auto* in = std::get_if<server::WorkerRegistered>(&event); in != nullptr && status.ok()) {
    heard_[in->registration.worker_id()] = now_;
  }
  if (timer) CheckLeases(before);
  if (status.ok() && std::holds_alternative<server::WorkerRegistered>(event)) {
    server_connection_[std::get<server::WorkerRegistered>(event).registration.worker_id()] = message.connection;
  }
  CheckAnswer(event, status);
  for (const std::string& sentence : core_->CheckInvariants()) Check(false, sentence);
}

void World::MakeDurable(const server::Effects& effects) {
  for (const server::EventRow& row : effects.events) {
    const Job::State from = row.event.from_state();
    const auto last = log_state_.find(row.job);
    Check((last == log_state_.end() ? Job::STATE_UNSPECIFIED : last->second) == from,
          absl::StrCat(row.job, " has a gap in its log before ", row.event.reason()));
    Check(!row.event.reason().empty() && !row.event.message().empty() && !row.event.actor().empty(),
          absl::StrCat(row.job, " has an event without cause"));
    Check(!IsFinal(from), absl::StrCat(row.job, " has an event after its end"));
    log_state_[row.job] = row.event.to_state();
    if (row.event.reason() == "GANG_PLACED") {
      Check(row.attempt == ++log_attempt_[row.job], absl::StrCat(row.job, " left out an attempt"));
    }
    ++counts_[absl::StrCat("event ", row.event.reason())];
  }
  for (const auto& [name, row] : effects.jobs) {
    CheckRow(row);
    stored_jobs_[name] = row;
  }
  for (const auto& [id, row] : effects.workers) {
    const auto old = stored_workers_.find(id);
    if (old != stored_workers_.end()) {
      Check(row.session >= old->second.session, absl::StrCat("the session of ", id, " fell"));
      Check(row.incarnation == old->second.incarnation || row.session > old->second.session,
            absl::StrCat("a new incarnation of ", id, " has an old session"));
    }
    stored_workers_[id] = row;
  }
}

void World::Act(const server::Effects& effects) {
  for (auto& agent : agents_) {
    if (effects.desired_changed.count(agent->worker_id) != 0) SendDesired(*agent);
  }
}

void World::ArmTimer() {
  const absl::Duration next = core_->NextTimer();
  if (next == absl::InfiniteDuration()) return;
  At(std::max({now_ + absl::Milliseconds(1), process_start_ + next, timers_from_}), [this, term = term_] {
    if (term != term_ || core_ == nullptr || core_->NextTimer() > now_ - process_start_) return;
    if (failing_batches_ > 0 || now_ < timers_from_) return;
    for (const Message& message : inbox_) {
      if (std::holds_alternative<server::TimerFired>(message.event)) return;
    }
    Deliver({.event = server::TimerFired{}, .reply = nullptr});
  });
}

// ---- what must hold ----------------------------------------------------------------------------------------

void World::Check(bool condition, const std::string& sentence) {
  if (!condition) violations_.push_back(absl::StrCat("event ", applied_, ": ", sentence));
}

void World::CheckAnswer(const server::Event& event, const absl::Status& status) {
  if (const auto* beat = std::get_if<server::WorkerBeat>(&event)) {
    const auto worker = core_->FindWorker(beat->worker_id);
    Check(!status.ok() || (worker && worker->session == beat->session), "a beat of a stale session was taken");
    if (!status.ok()) ++counts_["stale beats"];
  } else if (const auto* commit = std::get_if<server::CheckpointCommitted>(&event)) {
    const server::JobRow* row = core_->FindJob(commit->job);
    bool placed = false;
    if (row != nullptr) {
      for (const server::Placement& place : row->gang) placed = placed || place.session == commit->session;
    }
    const bool current = placed && row->attempt == commit->checkpoint.attempt();
    const bool old = current && !status.ok();
    Check(current ? status.ok() || absl::IsFailedPrecondition(status) : absl::IsAborted(status),
          absl::StrCat("a checkpoint of ", commit->job, " passed the fence wrongly"));
    if (!current) ++counts_["fenced checkpoints"];
    if (!old) return;
    ++counts_["old checkpoints"];
    Check(row->checkpoint && row->checkpoint->iteration() >= commit->checkpoint.iteration(),
          absl::StrCat("a new checkpoint of ", commit->job, " was refused"));
  }
}

void World::CheckLeases(const std::map<std::string, server::JobRow>& before) {
  if (core_->FrozenUntil() > CoreNow().steady) ++counts_["timers in a freeze"];
  for (const auto& [name, old] : before) {
    const server::JobRow& row = *core_->FindJob(name);
    for (const server::Placement& place : old.gang) {
      const bool kept =
          row.attempt == old.attempt &&
          std::any_of(row.gang.begin(), row.gang.end(), [&](const auto& now) { return now.rank == place.rank; });
      if (kept || place.succeeded) continue;
      ++counts_["ranks whose lease ended"];
      const auto heard = heard_.find(place.worker_id);
      const bool registered = heard != heard_.end();
      Check(now_ - (registered ? heard->second : term_start_) >= (registered ? 1 : 4) * kLease,
            absl::StrCat("the lease of ", place.worker_id, " ended too early"));
      Check(core_->FrozenUntil() <= CoreNow().steady,
            absl::StrCat("the lease of ", place.worker_id, " ended in a freeze"));
      if (!registered) continue;
      int together = 0;
      for (const auto& [id, time] : heard_) {
        const absl::Duration apart = absl::AbsDuration(time - heard->second);
        together += now_ - time >= kLease && apart < kLease / 3 ? 1 : 0;
      }
      Check(together <= 2, absl::StrCat("the lease of ", place.worker_id, " ended though ", together,
                                        " workers fell silent together"));
    }
  }
}

void World::CheckRow(const server::JobRow& row) {
  const size_t world_size = static_cast<size_t>(row.world_size);
  if (row.state == Job::STARTING || row.state == Job::RUNNING) {
    Check(row.pool ? !row.gang.empty() && row.gang.size() <= world_size : row.gang.size() == world_size,
          absl::StrCat(row.name, " has a part of its gang"));
  }
  const auto logged = log_state_.find(row.name);
  Check(logged != log_state_.end() && logged->second == row.state, absl::StrCat(row.name, " changed without an event"));
  if (row.state == Job::SUCCEEDED && row.pool) {
    Check(pool_work_[row.name] >= kPoolBlocks && row.record_digest == "r",
          absl::StrCat(row.name, " succeeded without its record"));
    ++counts_["pools done"];
  } else if (row.state == Job::SUCCEEDED) {
    Check(ended_well_[std::make_pair(row.name, row.attempt)].size() == world_size,
          absl::StrCat(row.name, " succeeded though not all of its ranks did"));
  }
  if (row.state == Job::CANCELLED || row.state == Job::CANCELLING) {
    Check(cancel_requested_.count(row.name) != 0, absl::StrCat(row.name, " was cancelled by nobody"));
  }
  const auto old = stored_jobs_.find(row.name);
  if (old == stored_jobs_.end()) return;
  if (row.pool && row.attempt == old->second.attempt) {
    for (const server::Placement& place : row.gang) {
      const auto& before = old->second.gang;
      Check(place.rank >= old->second.next_rank || std::any_of(before.begin(), before.end(),
                                                               [&](const server::Placement& was) {
                                                                 return was.rank == place.rank &&
                                                                        was.worker_id == place.worker_id;
                                                               }),
            absl::StrCat(row.name, " gave rank ", place.rank, " out twice"));
    }
  }
  Check(!IsFinal(old->second.state), absl::StrCat(row.name, " changed after its end"));
  Check(row.attempt >= old->second.attempt, absl::StrCat("the attempt of ", row.name, " fell"));
  const int64_t done = row.checkpoint ? row.checkpoint->iteration() : 0;
  const int64_t done_before = old->second.checkpoint ? old->second.checkpoint->iteration() : 0;
  Check(done >= done_before, absl::StrCat("the checkpoint of ", row.name, " went back"));
}

// All that can be seen of the core.
std::string World::Describe() const {
  std::string text = absl::StrCat(absl::FormatDuration(core_->NextTimer()), "\n");
  for (const auto& [name, row] : core_->jobs()) {
    absl::StrAppend(&text, name, " ", row.submit_index, " ", row.state, " ", row.state_reason, " ", row.state_message,
                    " ", row.creator, " ", row.pool, " ", row.world_size, " ", row.device, " ", row.data_set, " ",
                    row.next_rank, " ", row.record_digest);
    absl::StrAppend(&text, " ", row.max_attempts, " ", row.attempt, " ", row.failed_attempts, " ", row.failure_class,
                    " ", row.checkpoint ? row.checkpoint->ShortDebugString() : "", " ",
                    absl::FormatTime(row.create_time), " ", absl::FormatTime(row.start_time), " ",
                    absl::FormatTime(row.end_time), "\n");
    for (const server::Placement& place : row.gang) {
      absl::StrAppend(&text, " ", place.rank, " ", place.worker_id, " ", place.session, " ", place.slot, " ",
                      place.succeeded, "\n");
    }
  }
  for (const server::WorkerView& worker : core_->Workers()) {
    absl::StrAppend(&text, worker.row.name, " ", worker.row.worker_id, " ", worker.row.incarnation, " ",
                    worker.row.session, " ", worker.state != ham::v1::Worker::UNREACHABLE, " ",
                    absl::FormatTime(worker.last_beat_time), " ", core_->DesiredVersion(worker.row.worker_id), "\n");
    for (const ham::v1::Slot& slot : worker.slots) absl::StrAppend(&text, " ", slot.index(), " ", slot.job(), "\n");
    for (const server::DesiredRank& rank : core_->Desired(worker.row.worker_id)) {
      absl::StrAppend(&text, " ", rank.job, " ", rank.attempt, " ", rank.rank, " ", rank.slot, " ",
                      rank.checkpoint ? rank.checkpoint->iteration() : -1, "\n");
    }
  }
  return text;
}

// ---- agents and network ------------------------------------------------------------------------------------

absl::Duration World::Latency() {
  const bool late = faults_ && Chance(random_) < 0.02;
  return late ? Between(absl::ZeroDuration(), absl::Seconds(30))
              : Between(absl::Milliseconds(1), absl::Milliseconds(50));
}

void World::AgentSecond(SimulatedAgent& agent) {
  At(now_ + Between(absl::Milliseconds(900), absl::Milliseconds(1100)), [this, &agent] { AgentSecond(agent); });
  if (faults_ && agent.up) {
    const double dice = Chance(random_);
    if (dice < 1.0 / 600) {
      ++counts_["agent crashes"];
      BreakConnection(agent);
      agent.Crash();
      agent.down_until = now_ + Between(absl::ZeroDuration(), absl::Seconds(40));
    } else if (dice < 1.0 / 600 + 1.0 / 150) {
      ++counts_["broken connections"];
      BreakConnection(agent);
      agent.down_until = now_ + Between(absl::ZeroDuration(), absl::Seconds(Chance(random_) < 0.3 ? 90 : 5));
    }
  }
  if (!agent.up && now_ >= agent.down_until) agent.up = true;
  if (!agent.up) return;
  const TrainerFaults faults = faults_ ? TrainerFaults{.crash = 0.004, .user_error = 0.0005} : TrainerFaults{};
  agent.Tick(
      now_, faults, random_, [this](const RankId& id, int world_size) { return GangOf(id, world_size); },
      [this](const RankId& id) {
        ended_well_[std::make_pair(std::get<0>(id), std::get<1>(id))].insert(std::get<2>(id));
      });
  if (agent.connection == 0) {
    if (now_ >= agent.down_until && core_ != nullptr && Chance(random_) < 0.5) AgentConnect(agent);
    return;
  }
  if (agent.session == 0) return;
  AgentBeat(agent);
  AgentCheckpoints(agent);
  AgentWork(agent);
}

void World::AgentConnect(SimulatedAgent& agent) {
  agent.connection = next_connection_++;
  agent.session = 0;
  agent.desired_version = 0;
  const int64_t connection = agent.connection;
  // The message lives as long as its stream; the agent waits for the answer before it says more.
  const auto reply = [this, &agent, connection](bool ok) {
    if (agent.connection != connection) return;
    if (!ok) {
      agent.connection = 0;
      agent.down_until = now_ + Between(absl::Seconds(1), absl::Seconds(20));
      return;
    }
    const int64_t session = core_->FindWorker(agent.worker_id)->session;
    downlink_[connection] = now_ + Latency();
    At(downlink_[connection], [&agent, connection, session] {
      if (agent.connection == connection) agent.session = session;
    });
  };
  At(now_ + Between(absl::Milliseconds(1), absl::Milliseconds(50)), [this, &agent, connection, reply, term = term_] {
    if (term != term_ || core_ == nullptr || agent.connection != connection) return;
    server::WorkerRegistered event;
    event.registration = agent.Registration();
    Deliver({.event = std::move(event), .connection = connection, .reply = reply});
  });
}

void World::AgentBeat(SimulatedAgent& agent) {
  if (faults_ && Chance(random_) < 0.03) return;  // lost
  const server::WorkerBeat beat = {agent.worker_id, agent.session, agent.Observed(), agent.desired_version};
  const int copies = faults_ && Chance(random_) < 0.03 ? 2 : 1;
  for (int i = 0; i < copies; ++i) {
    At(now_ + Latency(), [this, beat, term = term_] {
      if (term == term_ && core_ != nullptr) Deliver({.event = beat, .reply = nullptr});
    });
  }
}

void World::AgentCheckpoints(SimulatedAgent& agent) {
  for (const auto& [id, process] : agent.processes) {
    const bool saves = std::get<2>(id) == 0 && !IsPool(std::get<0>(id));
    if (process.state != ObservedRank::RUNNING || !saves || Chance(random_) >= 0.1) continue;
    server::CheckpointCommitted commit;
    commit.session = agent.session;
    commit.job = std::get<0>(id);
    commit.checkpoint.set_attempt(std::get<1>(id));
    commit.checkpoint.set_iteration(process.iteration);
    commit.checkpoint.set_manifest_digest(absl::StrCat(std::get<1>(id), "/", process.iteration));
    At(now_ + Latency(), [this, commit, term = term_] {
      if (term == term_ && core_ != nullptr) Deliver({.event = commit, .reply = nullptr});
    });
  }
}

bool World::IsPool(const std::string& job) const { return stored_jobs_.at(job).pool; }

// Ranks of pools finish blocks; who finishes the last one leads to the record, of which the core may hear twice, or
// late.
void World::AgentWork(SimulatedAgent& agent) {
  for (const auto& [id, process] : agent.processes) {
    const std::string& job = std::get<0>(id);
    if (process.state != ObservedRank::RUNNING || !IsPool(job) || Chance(random_) >= 0.2) continue;
    At(now_ + Latency(), [this, job, session = agent.session, attempt = std::get<1>(id), term = term_] {
      if (term != term_ || core_ == nullptr || !core_->CheckFence(session, job, attempt).ok()) return;
      Deliver({.event = server::WorkFinished{job}, .reply = [this, job](bool ok) {
                 if (!ok || ++pool_work_[job] < kPoolBlocks) return;
                 const int copies = 1 + static_cast<int>(random_() % 2);
                 for (int i = 0; i < copies; ++i) {
                   At(now_ + Latency(), [this, job] {
                     if (core_ != nullptr) Deliver({.event = server::EvaluationRecorded{job, "r"}, .reply = nullptr});
                   });
                 }
               }});
    });
  }
}

// Messages of one stream arrive in order or not at all.
void World::SendDesired(SimulatedAgent& agent) {
  const auto stream = server_connection_.find(agent.worker_id);
  if (stream == server_connection_.end() || stream->second != agent.connection) return;
  if (faults_ && Chance(random_) < 0.03) return BreakConnection(agent);
  const int64_t connection = agent.connection;
  absl::Duration& arrival = downlink_[connection];
  arrival = std::max(arrival, now_ + Latency());
  At(arrival, [this, &agent, connection, desired = core_->Desired(agent.worker_id),
               version = core_->DesiredVersion(agent.worker_id)] {
    if (agent.connection != connection || !agent.up) return;
    const auto conflict = agent.TakeDesired(version, desired, now_, random_);
    if (conflict) Check(false, *conflict);
  });
}

// The coordinator hears of it some time later, if this is still the stream it uses.
void World::BreakConnection(SimulatedAgent& agent) {
  if (agent.connection == 0) return;
  const int64_t connection = std::exchange(agent.connection, 0);
  downlink_.erase(connection);
  At(now_ + Between(absl::ZeroDuration(), absl::Seconds(25)), [this, &agent, connection, term = term_] {
    if (term != term_ || core_ == nullptr) return;
    const auto worker = core_->FindWorker(agent.worker_id);
    const auto current = server_connection_.find(agent.worker_id);
    if (!worker || current == server_connection_.end() || current->second != connection) return;
    Deliver({.event = server::WorkerDisconnected{agent.worker_id, worker->session},
             .connection = connection,
             .reply = nullptr});
  });
}

Gang World::GangOf(const RankId& id, int world_size) const {
  const auto& [job, attempt, rank] = id;
  if (IsPool(job)) return Gang::kPool;
  const auto done = ended_well_.find({job, attempt});
  if (done != ended_well_.end() && !done->second.empty()) return Gang::kDone;
  int running = 0;
  for (const auto& agent : agents_) {
    auto it = agent->processes.lower_bound({job, attempt, 0});
    for (; it != agent->processes.end() && std::get<0>(it->first) == job && std::get<1>(it->first) == attempt; ++it) {
      running += it->second.state == ObservedRank::RUNNING ? 1 : 0;
    }
  }
  return running == world_size ? Gang::kRuns : Gang::kBroken;
}

// ---- clients -----------------------------------------------------------------------------------------------

void World::ClientStep() {
  At(now_ + Between(absl::Seconds(5), absl::Seconds(35)), [this] { ClientStep(); });
  if (core_ == nullptr) return;
  for (const std::string& name : acknowledged_) {
    Check(stored_jobs_.count(name) != 0 && core_->FindJob(name) != nullptr,
          absl::StrCat(name, " was acknowledged and is lost"));
  }
  if (!faults_) {  // what can never fit is taken away, so that all else must end
    for (const auto& [name, row] : stored_jobs_) {
      if (!IsFinal(row.state) && row.device != "cpu") Cancel(name);
    }
    return;
  }
  if (Chance(random_) < 0.02) {  // a switch fails
    ++counts_["partitions"];
    const absl::Duration until = now_ + Between(absl::ZeroDuration(), absl::Seconds(120));
    for (auto& agent : agents_) {
      if (Chance(random_) < 0.3) continue;
      BreakConnection(*agent);
      agent->down_until = std::max(agent->down_until, until);
    }
  }
  if (next_job_ <= kMaxJobs) Submit();
  if (Chance(random_) >= 0.2) return;
  std::vector<std::string> open;
  for (const auto& [name, row] : stored_jobs_) {
    if (!IsFinal(row.state) || Chance(random_) < 0.01) open.push_back(name);
  }
  if (!open.empty()) Cancel(open[random_() % open.size()]);
}

void World::Submit() {
  server::JobRow row;
  // Now and then a client repeats itself because it got no answer.
  row.name = absl::StrCat("projects/default/jobs/j", Chance(random_) < 0.1 ? next_job_ : next_job_++);
  row.creator = "admin";
  row.pool = Chance(random_) < 0.3;
  row.world_size = 1 + static_cast<int>(Chance(random_) * (row.pool ? 8 : 4));
  row.device = Chance(random_) < 0.03 ? "cuda" : "cpu";
  row.data_set = "fashion-mnist";
  row.max_attempts = 1 + static_cast<int>(Chance(random_) * 8);
  Deliver({.event = server::SubmitJob{row}, .reply = [this, name = row.name](bool ok) {
             if (ok) acknowledged_.insert(name);
           }});
}

void World::Cancel(const std::string& job) {
  cancel_requested_.insert(job);
  Deliver({.event = server::CancelJob{job, "admin"}, .reply = nullptr});
}

}  // namespace ham::simulation
