#include "tests/simulation/simulated_agent.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ham::simulation {

using ham::v1::ObservedRank;

std::string SimulatedAgent::Incarnation() const { return absl::StrCat(worker_id, "-", incarnation); }

ham::v1::RegisterWorker SimulatedAgent::Registration() const {
  ham::v1::RegisterWorker registration;
  registration.set_worker_id(worker_id);
  registration.set_worker_name(name);
  registration.set_incarnation(Incarnation());
  registration.set_incarnation_number(incarnation);
  registration.set_build_id("b1");
  for (int i = 0; i < slots; ++i) {
    ham::v1::Slot* slot = registration.add_slots();
    slot->set_index(i);
    slot->set_device("cpu");
  }
  for (const ham::v1::SlotProblem& problem : Problems()) {
    *registration.mutable_slots(problem.slot())->mutable_problem() = problem;
  }
  ham::v1::DataSet* data_set = registration.add_data_sets();
  data_set->set_name("fashion-mnist");
  data_set->set_digest("d1");
  for (ObservedRank& rank : Observed()) *registration.add_observed() = std::move(rank);
  return registration;
}

server::WorkerBeat SimulatedAgent::Beat() const {
  server::WorkerBeat beat{worker_id, session, Observed(), desired_version};
  beat.problems = Problems();
  beat.leaving = leaving;
  return beat;
}

std::vector<ham::v1::SlotProblem> SimulatedAgent::Problems() const {
  if (!has_problem) return {};
  std::vector<ham::v1::SlotProblem> problems(1);
  problems[0].set_slot(problem_slot);
  problems[0].set_kind(ham::v1::SlotProblem::DISK_FULL);
  problems[0].set_message("It is full.");
  return problems;
}

std::vector<ObservedRank> SimulatedAgent::Observed() const {
  std::vector<ObservedRank> observed;
  observed.reserve(processes.size());
  for (const auto& [id, process] : processes) {
    ObservedRank& rank = observed.emplace_back();
    rank.set_job(std::get<0>(id));
    rank.set_attempt(std::get<1>(id));
    rank.set_rank(std::get<2>(id));
    rank.set_state(process.state);
    if (!process.alive()) *rank.mutable_exit() = process.exit;
    if (process.state != ObservedRank::RUNNING) continue;
    rank.mutable_process()->set_state(ham::v1::ProcessState::ACTIVE);
    ham::v1::Progress& progress = *rank.mutable_progress();
    const Gang& gang = *process.gang;
    progress.set_phase(gang.pool ? "evaluate" : "train");
    progress.set_tick(process.iteration);
    if (gang.pool) continue;
    progress.set_collective_sequence(process.iteration);
    progress.set_collective_begun(process.iteration + (gang.advances() || process.stuck ? 0 : 1));
  }
  return observed;
}

std::optional<std::string> SimulatedAgent::TakeDesired(
    int64_t version, const std::vector<server::DesiredRank>& desired, absl::Duration now,
    const std::function<std::shared_ptr<Gang>(const server::DesiredRank&)>& gang) {
  if (version < desired_version) return std::nullopt;
  desired_version = version;
  std::set<RankId> named;
  std::set<int> busy;
  for (const server::DesiredRank& rank : desired) named.insert({rank.job, rank.attempt, rank.rank});
  for (auto& [id, process] : processes) {
    process.desired = named.count(id) != 0;
    if (!process.alive()) continue;
    busy.insert(process.slot);
    if (!process.desired && process.stop_at == absl::InfiniteDuration()) {
      process.stop_at = now + absl::Seconds(15) * random.Unit();
    }
  }
  std::erase_if(processes, [](const auto& entry) { return !entry.second.desired && !entry.second.alive(); });
  for (const server::DesiredRank& rank : desired) {
    const RankId id = {rank.job, rank.attempt, rank.rank};
    if (processes.count(id) != 0 || leaving) continue;
    if (!busy.insert(rank.slot).second) {
      return absl::StrCat("slot ", rank.slot, " of ", name, " is to run ", rank.job, " attempt ", rank.attempt,
                          " while another trainer is alive on it");
    }
    Process& process = processes[id];
    process.gang = gang(rank);
    process.slot = rank.slot;
    process.iteration = rank.checkpoint ? rank.checkpoint->iteration() : 0;
    ended.erase(id);
  }
  return std::nullopt;
}

// Of its gang, whatever state it was in.
void SimulatedAgent::Leave(const RankId& id, Process& process) {
  if (process.state == ObservedRank::RUNNING) --process.gang->running;
  if (std::exchange(process.stuck, false)) --process.gang->stuck;
  if (!process.gang->lost_rank && !process.gang->done) process.gang->lost_rank = std::get<2>(id);
}

void SimulatedAgent::Exit(const RankId& id, Process& process, const ham::v1::RankExit& exit) {
  if (exit.success()) process.gang->done = true;
  Leave(id, process);
  process.state = ObservedRank::EXITED;
  process.exit = exit;
  ended.insert(id);
}

void SimulatedAgent::GetStuck(Process& process) {
  if (!std::exchange(process.stuck, true)) ++process.gang->stuck;
  process.gang->was_stuck = true;
}

void SimulatedAgent::BeginLeaving(absl::Duration now) {
  leaving = true;
  leave_by = now + absl::Seconds(20);
  for (auto& [id, process] : processes) {
    if (process.alive()) process.stop_at = std::min(process.stop_at, now + absl::Seconds(15) * random.Unit());
  }
}

bool SimulatedAgent::HasTrainers() const {
  return std::any_of(processes.begin(), processes.end(), [](const auto& entry) { return entry.second.alive(); });
}

bool SimulatedAgent::Tick(const RankId& id, Process& process, absl::Duration now) {
  Gang& gang = *process.gang;
  ham::v1::RankExit exit;
  if (now >= process.stop_at) {
    exit.set_signal(15);
    exit.set_failure_class(leaving ? ham::v1::PREEMPTED : ham::v1::TRAINER_CRASH);
    Exit(id, process, exit);
    return false;
  }
  if (process.stuck) return false;
  if (process.state == ObservedRank::STARTING) {
    if (!random.Chance(0.5)) return false;
    process.state = ObservedRank::RUNNING;
    ++gang.running;
    return false;
  }
  if (gang.pool) {
    ++process.iteration;
    return false;
  }
  if (!gang.advances() && !gang.done) {  // a lost connection is soon seen; silence in the end
    if (!random.Chance(gang.lost_rank ? 0.3 : 0.002)) return false;
    exit.set_exit_code(1);
    exit.set_failure_class(ham::v1::INFRASTRUCTURE);
    if (gang.lost_rank) exit.set_lost_rank(*gang.lost_rank);
    Exit(id, process, exit);
    return false;
  }
  // Ranks end by themselves, one after the other, once the last iteration is done.
  if (!gang.done) ++process.iteration;
  const bool last = gang.done || (process.iteration >= 20 && random.Chance(0.05));
  if (!last || random.Chance(0.5)) return false;
  exit.set_success(true);
  Exit(id, process, exit);
  return true;
}

void SimulatedAgent::ForgetEnded() {
  std::erase_if(processes, [this](const auto& entry) {
    return !entry.second.desired && !entry.second.alive() && random.Chance(0.5);
  });
}

void SimulatedAgent::Crash() {
  for (auto& [id, process] : processes) {
    if (process.alive()) Leave(id, process);
    ended.insert(id);
  }
  processes.clear();
  leaving = false;
  ++incarnation;
  connection = 0;
  session = 0;
  desired_version = 0;
  up = false;
}

}  // namespace ham::simulation
