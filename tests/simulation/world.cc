#include "tests/simulation/world.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/job_state.h"

namespace ham::simulation {

using ham::v1::Job;

namespace {

constexpr size_t kTraceLines = 60;

// What a random stream is for.
enum Use : uint64_t { kNetwork = 100, kProcess, kClients };

}  // namespace

World::World(const WorldOptions& options)
    : options_(options),
      network_(options.seed, kNetwork),
      process_(options.seed, kProcess),
      clients_(options.seed, kClients),
      promises_(core_options_, this, &coverage_) {
  core_options_.lease = options.lease;
  rates_ = FaultRates(options.seed, options.faults);
  if (options.healthy) {
    constexpr size_t kOnly = static_cast<size_t>(Fault::kShortOutage);
    rates_ = {};
    if (options.faults[kOnly]) rates_[kOnly] = 0.001;
  }
  for (size_t i = 0; i < kFaultKinds; ++i) fault_random_.emplace_back(options.seed, i);
  const int slots[] = {1, 2, 3, 1, 2, 2};
  for (int i = 0; i < 6; ++i) AddAgent(absl::StrCat("w", i), absl::StrCat("worker-", i), slots[i]);
  if (!options.healthy) AddAgent("rival", "worker-5", 2);  // claims another's name
  At(absl::ZeroDuration(), [this] { StartCoordinator(); });
  At(absl::Seconds(1), [this] { ClientStep(); });
}

// ---- time and chance ---------------------------------------------------------------------------------------

void World::At(absl::Duration time, std::function<void()> action) {
  agenda_.push_back({std::max(time, now_), next_appointment_++, std::move(action)});
  std::push_heap(agenda_.begin(), agenda_.end());
}

void World::Step() {
  std::pop_heap(agenda_.begin(), agenda_.end());
  Appointment next = std::move(agenda_.back());
  agenda_.pop_back();
  now_ = next.time;
  next.action();
}

// Says whether it would strike; each kind has dice of its own, so that leaving one out moves the others little.
bool World::Draws(Fault fault) const {
  const size_t kind = static_cast<size_t>(fault);
  const double rate = rates_[kind];
  return faults_ && rate > 0 && fault_random_[kind].Chance(rate) && promises_.events() >= options_.faults_from;
}

void World::Struck(Fault fault, const std::string& whom) {
  coverage_.Count(fault);
  if (options_.trace) Trace(absl::StrCat("FAULT ", NameOf(fault), " ", whom));
}

bool World::Strikes(Fault fault) {
  const bool strikes = Draws(fault);
  if (strikes) Struck(fault, "");
  return strikes;
}

void World::Trace(const std::string& line) {
  trace_.push_back(absl::StrCat(absl::ToDoubleSeconds(now_), " s, event ", promises_.events(), ": ", line));
  if (trace_.size() > kTraceLines) trace_.pop_front();
}

void World::TraceEvent(const server::Event& event, const absl::Status& status) {
  std::string whom;
  if (const auto* beat = std::get_if<server::WorkerBeat>(&event)) whom = beat->worker_id;
  if (const auto* in = std::get_if<server::WorkerRegistered>(&event)) whom = in->registration.incarnation();
  if (const auto* gone = std::get_if<server::WorkerDisconnected>(&event)) whom = gone->worker_id;
  if (const auto* commit = std::get_if<server::CheckpointCommitted>(&event)) whom = commit->job;
  if (const auto* cancel = std::get_if<server::CancelJob>(&event)) whom = cancel->job;
  Trace(absl::StrCat(NameOf(event), " ", whom, " ", status.ok() ? "" : status.ToString()));
  const std::vector<server::EventRow>& rows = core_->pending().events;
  for (size_t i = promises_.log_taken(); i < rows.size(); ++i) {
    const server::EventRow& row = rows[i];
    Trace(absl::StrCat("  ", row.job, " attempt ", row.attempt, " ", ham::v1::Job::State_Name(row.event.to_state()),
                       " ", row.event.reason(), " ", row.event.message()));
  }
}

void World::RunUntil(int64_t events, absl::Duration time) {
  while (promises_.events() < events && now_ < time && violations().empty()) Step();
}

void World::RunFor(absl::Duration time) {
  const absl::Duration end = now_ + time;
  while (now_ < end) Step();
}

void World::RunToTheEnd(absl::Duration limit) {
  faults_ = false;
  calm_from_ = now_;
  const absl::Duration soon = now_ + absl::Seconds(60);
  for (auto& agent : agents_) {
    for (absl::Duration* until : {&agent->down_until, &agent->cut_up_until, &agent->cut_down_until}) {
      *until = std::min(*until, soon);
    }
  }
  const auto lost = std::find_if(agents_.begin(), agents_.end(), [](const auto& agent) { return !agent->gone; });
  if (lost != agents_.end() && !options_.healthy) {  // one machine never comes back
    BreakStream(**lost);
    (*lost)->Crash();
    (*lost)->gone = true;
  }
  const absl::Duration end = now_ + limit;
  std::string open;
  while (now_ < end && violations().empty()) {
    RunFor(absl::Seconds(10));
    open.clear();
    for (const std::string& name : promises_.open()) absl::StrAppend(&open, name, " ");
    if (core_ == nullptr || !open.empty()) continue;
    for (const server::WorkerView& worker : core_->Workers()) {
      for (const ham::v1::Slot& slot : worker.slots) {
        if (worker.state != ham::v1::Worker::UNREACHABLE && !slot.job().empty())
          absl::StrAppend(&open, "slot of ", worker.row.name, " ");
      }
    }
    if (open.empty()) return;
  }
  if (violations().empty()) promises_.Check(false, "every job ends, every slot comes free", open);
}

// ---- the coordinator's process -----------------------------------------------------------------------------

void World::StartCoordinator() {
  ++term_;
  coverage_.Note("coordinator starts");
  process_start_ = now_ - process_.Between(absl::ZeroDuration(), absl::Seconds(1));
  wall_offset_ = process_.Between(-absl::Hours(1), absl::Hours(1));
  core_ = std::make_unique<server::Coordinator>(core_options_, &policy_);
  core_->Restore(promises_.JobRows(), promises_.WorkerRows(), CoreNow());
  promises_.Started(now_);
  store_failed_ = false;
  undone_.clear();
  timers_from_ = paused_until_ = now_;
  ArmTimer();
}

void World::KillCoordinator() {
  if (options_.trace) Trace("the coordinator dies");
  promises_.RolledBack();
  core_.reset();
  inbox_.clear();
  remembered_.clear();
  batch_armed_ = false;
  timer_armed_ = absl::InfiniteDuration();
  ++term_;  // what is on its way never arrives
  for (auto& agent : agents_) {
    agent->connection = 0;
    agent->shielded_until = absl::ZeroDuration();
  }
  server_connection_.clear();
  lingering_.clear();
  At(now_ + process_.Between(absl::ZeroDuration(), absl::Seconds(20)), [this] { StartCoordinator(); });
}

void World::Deliver(Message message) {
  inbox_.push_back(std::move(message));
  ArmBatch(now_ + process_.Between(absl::ZeroDuration(), absl::Milliseconds(20)));
}

void World::ArmBatch(absl::Duration time) {
  if (std::exchange(batch_armed_, true)) return;
  At(std::max(time, paused_until_), [this, term = term_] {
    if (term == term_ && core_ != nullptr) ProcessBatch();
  });
}

void World::ProcessBatch() {
  batch_armed_ = false;
  if (Strikes(Fault::kCoordinatorCrash)) return KillCoordinator();
  if (Strikes(Fault::kCoordinatorPause)) {
    const absl::Duration pause = process_.Between(absl::Seconds(1), 1.5 * options_.lease);
    paused_until_ = now_ + pause;
    // It notices a long one, and a short one is less than what it waits for anyway.
    if (pause > options_.lease / 2) promises_.HoldTimers(timers_from_ = paused_until_ + options_.lease);
    return ArmBatch(paused_until_);
  }
  if (store_failed_ && now_ >= store_fails_until_) ReopenStore();
  std::vector<Message> batch = std::exchange(inbox_, {});
  if (store_failed_) return ProcessWithoutStore(std::move(batch));
  RunBatch(std::move(batch), false);
}

void World::ReopenStore() {
  store_failed_ = false;
  promises_.HoldTimers(timers_from_ = now_ + options_.lease);  // for workers to be heard
  for (Message& message : std::exchange(undone_, {})) inbox_.push_back(std::move(message));
}

// As the loop does: while the store fails each request stands alone, what would have to be durable is refused, and
// nothing times out.
void World::ProcessWithoutStore(std::vector<Message> batch) {
  for (Message& message : batch) {
    coverage_.Note("requests while the store fails");
    const bool durable = std::holds_alternative<server::SubmitJob>(message.event) ||
                         std::holds_alternative<server::CancelJob>(message.event) ||
                         std::holds_alternative<server::CheckpointCommitted>(message.event);
    if (durable) {
      if (message.reply) message.reply(false);
      continue;
    }
    std::vector<Message> one;
    one.push_back(std::move(message));
    RunBatch(std::move(one), true);
  }
  ArmBatch(store_fails_until_);
}

void World::RunBatch(std::vector<Message> batch, bool store_fails) {
  const bool fails = Draws(Fault::kCommitFails);
  const bool full = Draws(Fault::kDiskFull);
  const bool torn = Draws(Fault::kTornCommit);
  const bool unanswered = Draws(Fault::kCrashUnanswered);
  const bool may_fail = store_fails || fails || full;
  const std::string before = may_fail ? Describe() : "";
  std::vector<Message> accepted;
  for (Message& message : batch) {
    if (Apply(message)) accepted.push_back(std::move(message));
  }
  batch = std::move(accepted);
  if (!store_fails && TimerIsDue()) Apply({.event = server::TimerFired{}, .reply = nullptr});
  if (core_->pending().durable_empty()) return FinishBatch(std::move(batch));
  if (store_fails) return FailBatch(std::move(batch), before);
  if (fails || full) {
    Struck(full ? Fault::kDiskFull : Fault::kCommitFails, "");
    store_failed_ = true;
    store_fails_until_ = now_ + (full ? process_.Between(absl::Seconds(2), absl::Seconds(30))
                                      : process_.Between(absl::ZeroDuration(), absl::Seconds(2)));
    return FailBatch(std::move(batch), before);
  }
  if (torn) {
    Struck(Fault::kTornCommit, "");
    return KillCoordinator();
  }
  if (unanswered) {
    Struck(Fault::kCrashUnanswered, "");
    promises_.Committed(*core_);
    return KillCoordinator();
  }
  FinishBatch(std::move(batch));
}

void World::FailBatch(std::vector<Message> batch, const std::string& before) {
  coverage_.Note("rollbacks");
  core_->RollbackBatch();
  promises_.RolledBack();
  const std::string after = Describe();
  const auto differ = std::mismatch(before.begin(), before.end(), after.begin(), after.end());
  promises_.Check(before == after, "a rollback leaves nothing behind",
                  absl::StrCat("was ", before.substr(static_cast<size_t>(differ.first - before.begin()), 40), ", is ",
                               after.substr(static_cast<size_t>(differ.first - before.begin()), 40)));
  promises_.Check(core_->CheckInvariants().empty(), "a rollback leaves nothing behind", "an invariant");
  for (Message& message : batch) {
    if (message.reply) message.reply(false);
    if (std::holds_alternative<server::WorkerDisconnected>(message.event)) undone_.push_back(std::move(message));
  }
  ArmBatch(store_fails_until_);
}

void World::FinishBatch(std::vector<Message> batch) {
  const server::Effects effects = core_->CommitBatch();
  promises_.Committed(*core_);
  for (const Message& message : batch) {
    const auto* gone = std::get_if<server::WorkerDisconnected>(&message.event);
    if (gone != nullptr) {
      const auto current = server_connection_.find(gone->worker_id);
      if (current != server_connection_.end() && current->second == message.connection) {
        server_connection_.erase(current);
      }
    }
    promises_.Acknowledged(message.event);
    if (message.reply) message.reply(true);
  }
  for (const std::string& id : effects.desired_changed) {
    if (SimulatedAgent* agent = FindAgent(id); agent != nullptr) SendDesired(*agent);
  }
  ArmTimer();
}

bool World::TimerIsDue() const {
  return core_->NextTimer() <= now_ - process_start_ && now_ >= timers_from_ && now_ >= paused_until_;
}

// False if it came to nothing: its sender has been told.
bool World::Apply(const Message& message) {
  const auto* gone = std::get_if<server::WorkerDisconnected>(&message.event);
  if (gone != nullptr) {  // what closes an older stream says nothing about the worker
    const auto current = server_connection_.find(gone->worker_id);
    if (current == server_connection_.end() || current->second != message.connection) return false;
  }
  const absl::Status status = core_->Apply(message.event, CoreNow(), 2 * process_.Unit() - 1);
  digest_ = (digest_ ^ message.event.index() ^ static_cast<uint64_t>(status.code()) << 8 ^
             static_cast<uint64_t>(absl::ToInt64Microseconds(now_)) << 16) *
            0x100000001b3;
  if (options_.trace) TraceEvent(message.event, status);
  const auto* in = std::get_if<server::WorkerRegistered>(&message.event);
  if (in != nullptr && status.ok()) {
    const std::string& id = in->registration.worker_id();
    incarnation_of_[core_->FindWorker(id)->session] = in->registration.incarnation();
    const int64_t old = std::exchange(server_connection_[id], message.connection);
    if (old != message.connection) CloseAtAgent(id, old);
  }
  promises_.Applied(*core_, message.event, status, now_, CoreNow().steady);
  const auto* beat = std::get_if<server::WorkerBeat>(&message.event);
  if (beat != nullptr && !status.ok() && message.connection != 0) {
    CloseAtAgent(beat->worker_id, message.connection);
    Deliver({.event = server::WorkerDisconnected{beat->worker_id, beat->session},
             .connection = message.connection,
             .reply = nullptr});
  }
  if (status.ok() || gone != nullptr) return true;
  if (message.reply) message.reply(false);
  return false;
}

void World::ArmTimer() {
  const absl::Duration next = core_->NextTimer();
  if (next == absl::InfiniteDuration() || store_failed_) return;
  const absl::Duration time = std::max({now_ + absl::Milliseconds(1), process_start_ + next, timers_from_});
  if (time >= timer_armed_) return;
  timer_armed_ = time;
  At(time, [this, time, term = term_] {
    if (term != term_ || core_ == nullptr || timer_armed_ != time) return;
    timer_armed_ = absl::InfiniteDuration();
    if (!store_failed_ && TimerIsDue()) return ArmBatch(now_);
    ArmTimer();
  });
}

// All that can be seen of the core; of ended jobs, how many there are.
std::string World::Describe() const {
  std::string text =
      absl::StrCat(absl::FormatDuration(core_->NextTimer()), " ", absl::FormatDuration(core_->FrozenUntil()), "\n");
  const auto time = [](absl::Time t) { return absl::ToUnixMicros(t); };
  size_t ended = 0;
  for (const auto& [name, row] : core_->jobs()) {
    if (IsFinal(row.state)) {
      ++ended;
      continue;
    }
    absl::StrAppend(&text, name, " ", row.submit_index, " ", row.state, " ", row.state_reason, " ", row.state_message,
                    " ", row.creator, " ", row.pool, " ", row.world_size, " ", row.device, " ", row.data_set, " ",
                    row.next_rank, " ", row.record_digest);
    absl::StrAppend(&text, " ", row.max_attempts, " ", row.attempt, " ", row.failed_attempts, " ", row.failure_class,
                    " ", row.checkpoint ? row.checkpoint->iteration() : -1, " ", row.older_checkpoints.size(), " ",
                    time(row.create_time), " ", time(row.start_time), " ", time(row.end_time), "\n");
    for (const server::Placement& place : row.gang) {
      absl::StrAppend(&text, " ", place.rank, " ", place.worker_id, " ", place.session, " ", place.slot, " ",
                      place.succeeded, "\n");
    }
  }
  absl::StrAppend(&text, ended, "\n");
  for (const server::WorkerView& worker : core_->Workers()) {
    absl::StrAppend(&text, worker.row.name, " ", worker.row.worker_id, " ", worker.row.incarnation, " ",
                    worker.row.session, " ", worker.state, " ", time(worker.last_beat_time), " ",
                    core_->DesiredVersion(worker.row.worker_id), "\n");
    for (const ham::v1::Slot& slot : worker.slots) absl::StrAppend(&text, " ", slot.index(), " ", slot.job(), "\n");
    for (const server::DesiredRank& rank : core_->Desired(worker.row.worker_id)) {
      absl::StrAppend(&text, " ", rank.job, " ", rank.attempt, " ", rank.rank, " ", rank.slot, " ",
                      rank.checkpoint ? rank.checkpoint->iteration() : -1, "\n");
    }
  }
  return text;
}

}  // namespace ham::simulation
