#include "tests/simulation/simulated_agent.h"

#include <set>

#include "absl/strings/str_cat.h"

namespace ham::simulation {

using ham::v1::ObservedRank;

double Chance(std::mt19937_64& random) { return std::uniform_real_distribution<double>(0.0, 1.0)(random); }

ham::v1::RegisterWorker SimulatedAgent::Registration() const {
  ham::v1::RegisterWorker registration;
  registration.set_worker_id(worker_id);
  registration.set_worker_name(name);
  registration.set_incarnation(absl::StrCat(worker_id, "-", incarnation));
  registration.set_build_id("b1");
  for (int i = 0; i < slots; ++i) {
    ham::v1::Slot* slot = registration.add_slots();
    slot->set_index(i);
    slot->set_device("cpu");
  }
  ham::v1::DataSet* data_set = registration.add_data_sets();
  data_set->set_name("fashion-mnist");
  data_set->set_digest("d1");
  for (const ObservedRank& rank : Observed()) *registration.add_observed() = rank;
  return registration;
}

std::vector<ObservedRank> SimulatedAgent::Observed() const {
  std::vector<ObservedRank> observed;
  for (const auto& [id, process] : processes) {
    ObservedRank rank;
    rank.set_job(std::get<0>(id));
    rank.set_attempt(std::get<1>(id));
    rank.set_rank(std::get<2>(id));
    rank.set_state(process.state);
    if (process.collective) rank.mutable_progress()->set_collective_sequence(process.iteration);
    if (!process.alive()) *rank.mutable_exit() = process.exit;
    observed.push_back(std::move(rank));
  }
  return observed;
}

std::optional<std::string> SimulatedAgent::TakeDesired(int64_t version, const std::vector<server::DesiredRank>& desired,
                                                       absl::Duration now, std::mt19937_64& random) {
  if (version < desired_version) return std::nullopt;
  desired_version = version;
  std::set<RankId> named;
  std::set<int> busy;
  for (const server::DesiredRank& rank : desired) named.insert({rank.job, rank.attempt, rank.rank});
  for (auto it = processes.begin(); it != processes.end();) {
    Process& process = it->second;
    process.desired = named.count(it->first) != 0;
    if (process.alive()) {
      busy.insert(process.slot);
      if (!process.desired && process.stop_at == absl::InfiniteDuration()) {
        process.stop_at = now + absl::Seconds(15) * Chance(random);
      }
    }
    it = !process.desired && !process.alive() ? processes.erase(it) : std::next(it);
  }
  for (const server::DesiredRank& rank : desired) {
    const RankId id = {rank.job, rank.attempt, rank.rank};
    if (processes.count(id) != 0) continue;
    if (!busy.insert(rank.slot).second) {
      return absl::StrCat("slot ", rank.slot, " of ", name, " is to run ", rank.job, " attempt ", rank.attempt,
                          " while another trainer is alive on it");
    }
    processes[id] = {.slot = rank.slot,
                     .world_size = rank.world_size,
                     .exit = {},
                     .iteration = rank.checkpoint ? rank.checkpoint->iteration() : 0};
  }
  return std::nullopt;
}

bool SimulatedAgent::TickProcess(Process& process, absl::Duration now, const TrainerFaults& faults,
                                 std::mt19937_64& random, Gang gang) {
  process.collective = gang != Gang::kPool;
  if (!process.alive()) return false;
  if (now >= process.stop_at) {
    process.state = ObservedRank::EXITED;
    process.exit.set_signal(15);
    process.exit.set_failure_class(ham::v1::TRAINER_CRASH);
    return false;
  }
  const double dice = Chance(random);
  if (dice < faults.crash + faults.user_error) {
    process.state = ObservedRank::EXITED;
    process.exit.set_exit_code(1);
    process.exit.set_failure_class(dice < faults.crash ? ham::v1::TRAINER_CRASH : ham::v1::USER);
    return false;
  }
  if (process.state == ObservedRank::STARTING) {
    if (Chance(random) < 0.5) process.state = ObservedRank::RUNNING;
    return false;
  }
  if (gang == Gang::kBroken) {
    if (Chance(random) >= 0.03) return false;
    process.state = ObservedRank::EXITED;
    process.exit.set_exit_code(1);
    process.exit.set_failure_class(ham::v1::INFRASTRUCTURE);
    return false;
  }
  if (gang == Gang::kPool) {
    ++process.iteration;
    return false;
  }
  // Ranks end by themselves, one after the other, once the last iteration is done.
  if (gang == Gang::kRuns) ++process.iteration;
  const bool last = gang == Gang::kDone || (process.iteration >= 20 && Chance(random) < 0.05);
  if (!last || Chance(random) < 0.5) return false;
  process.state = ObservedRank::EXITED;
  process.exit.set_success(true);
  return true;
}

void SimulatedAgent::Crash() {
  processes.clear();
  ++incarnation;
  connection = 0;
  session = 0;
  desired_version = 0;
  up = false;
}

}  // namespace ham::simulation
