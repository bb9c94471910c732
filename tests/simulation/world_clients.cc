// Clients, and what befalls the whole cluster.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/job_state.h"
#include "tests/simulation/world.h"

namespace ham::simulation {

void World::ClientStep() {
  At(now_ + clients_.Between(absl::Seconds(5), absl::Seconds(35)), [this] { ClientStep(); });
  if (Strikes(Fault::kSwitchFails)) FailSwitch();
  if (core_ == nullptr) return;
  promises_.CheckNothingLost(*core_);
  if (!faults_) return CancelUnfit();
  if (Strikes(Fault::kClockStep)) wall_offset_ += clients_.Between(-absl::Hours(1), absl::Hours(1));
  if (Strikes(Fault::kReplay)) Replay();
  Submit();
  if (options_.healthy) return;
  if (clients_.Chance(0.3)) CancelOne();
  if (clients_.Chance(0.03)) Cancel("nobody's");
  if (clients_.Chance(0.03)) {
    Deliver({.event = server::EvaluationRecorded{"nobody's", "r"}, .reply = nullptr});
  }
  if (clients_.Chance(0.03)) {
    Deliver({.event = server::CheckpointDamaged{"nobody's", "d", "it is torn"}, .reply = nullptr});
  }
  DamageCheckpoint();
  if (Draws(Fault::kBrokenSpec) && !promises_.open().empty()) {
    auto job = promises_.open().begin();
    std::advance(job, static_cast<int64_t>(clients_.Below(promises_.open().size())));
    Struck(Fault::kBrokenSpec, *job);
    Deliver({.event = server::JobBroken{*job, "Its spec cannot be read."}, .reply = nullptr});
  }
}

void World::FailSwitch() {
  const absl::Duration until = now_ + clients_.Between(absl::Seconds(1), absl::Seconds(60));
  for (auto& agent : agents_) {
    if (agent->gone || clients_.Chance(0.3) || now_ < agent->shielded_until) continue;
    StrikeNetwork(*agent, until, until);
  }
}

void World::Submit() {
  server::JobRow row;
  // Now and then a client repeats itself because it got no answer.
  row.name = absl::StrCat("j", clients_.Chance(0.1) ? next_job_ : next_job_++);
  row.creator = "admin";
  row.pool = clients_.Chance(0.3);
  row.world_size = 1 + static_cast<int>(clients_.Below(row.pool ? 8 : 4));
  row.device = clients_.Chance(0.03) && !options_.healthy ? "cuda" : "cpu";
  row.data_set = "fashion-mnist";
  row.max_attempts = 1 + static_cast<int>(clients_.Below(8));
  Deliver({.event = server::SubmitJob{std::move(row)}, .reply = nullptr});
}

// Any open one; one whose ranks begin to end, for that is when it matters who was first; sometimes one that has ended.
void World::CancelOne() {
  std::vector<std::string> jobs(promises_.open().begin(), promises_.open().end());
  for (const std::string& name : promises_.open()) {
    const std::vector<server::Placement>& gang = promises_.Find(name)->gang;
    const bool ends = std::any_of(gang.begin(), gang.end(), [](const auto& place) { return place.succeeded; });
    if (ends) jobs.assign(1, name);
    if (ends) break;
  }
  if (clients_.Chance(0.1)) jobs.assign(1, absl::StrCat("j", 1 + clients_.Below(static_cast<size_t>(next_job_))));
  if (!jobs.empty()) Cancel(jobs[clients_.Below(jobs.size())]);
}

void World::DamageCheckpoint() {
  if (!Draws(Fault::kDamagedCheckpoint)) return;
  std::vector<const server::JobRow*> jobs;
  for (const std::string& name : promises_.open()) {
    if (promises_.Find(name)->checkpoint) jobs.push_back(promises_.Find(name));
  }
  if (jobs.empty()) return;
  const server::JobRow& job = *jobs[clients_.Below(jobs.size())];
  Struck(Fault::kDamagedCheckpoint, job.name);
  Deliver({.event = server::CheckpointDamaged{job.name, job.checkpoint->manifest_digest(), "it is torn"},
           .reply = nullptr});
}

// What can never fit is taken away, so that all else must end.
void World::CancelUnfit() {
  if (now_ < calm_from_ + absl::Minutes(3)) return;
  for (const std::string& name : std::set<std::string>(promises_.open())) {
    if (promises_.Find(name)->state_reason == "NO_WORKER_FITS") Cancel(name);
  }
}

void World::Cancel(const std::string& job) { Deliver({.event = server::CancelJob{job, "admin"}, .reply = nullptr}); }

}  // namespace ham::simulation
