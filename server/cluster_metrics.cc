#include "server/cluster_metrics.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "proto/version.h"

namespace ham::server {
namespace {

using ham::v1::Worker;

double Count(int64_t count) { return static_cast<double>(count); }

void AddJobCounts(const ClusterSnapshot& snapshot, absl::Duration now, MetricFamilies* families) {
  MetricFamily jobs = Family("ham_jobs", "Jobs by state.");
  for (int state = ham::v1::Job::QUEUED; state < ham::v1::Job::State_ARRAYSIZE; ++state) {
    AddMetric(&jobs, {{"state", ham::v1::Job::State_Name(static_cast<ham::v1::Job::State>(state))}},
              Count(snapshot.jobs_by_state[static_cast<size_t>(state)]));
  }
  families->push_back(std::move(jobs));
  MetricFamily events =
      Family("ham_job_events_total", "Events of jobs since the coordinator started, by reason.", MetricType::Counter);
  for (size_t i = 0; i < snapshot.events.counts().size(); ++i) {
    AddMetric(&events, {{"reason", std::string(JobEventCounts::kReasons[i])}}, Count(snapshot.events.counts()[i]));
  }
  families->push_back(std::move(events));
  families->push_back(Scalar("ham_job_attempts_total", "Attempts started since the coordinator started.",
                             Count(snapshot.attempts_started), MetricType::Counter));
  families->push_back(
      Scalar("ham_queue_jobs", "Jobs that wait for slots.", Count(static_cast<int64_t>(snapshot.waiting_jobs))));
  const bool waits = snapshot.waiting_jobs != 0;
  families->push_back(Scalar("ham_queue_oldest_seconds", "For how long the oldest of them has waited; 0 without any.",
                             waits ? std::max(0.0, absl::ToDoubleSeconds(now - snapshot.oldest_wait)) : 0));
}

void AddCore(const ClusterSnapshot& snapshot, absl::Duration now, MetricFamilies* families) {
  families->push_back(Scalar("ham_leases_frozen",
                             "1 while no lease of a worker ends, since the coordinator suspects itself.",
                             now < snapshot.leases_held_until ? 1 : 0));
  families->push_back(Scalar("ham_lease_seconds", "Silence after which the lease of a worker ends.",
                             absl::ToDoubleSeconds(snapshot.lease)));
  families->push_back(Summary("ham_core_batch_seconds", "Time of one batch of requests on the core's thread.",
                              snapshot.batches, snapshot.batch_seconds));
  families->push_back(
      Summary("ham_store_commit_seconds", "Time of one transaction.", snapshot.commits, snapshot.commit_seconds));
  families->push_back(Scalar("ham_store_commits_total", "Transactions since the coordinator started.",
                             Count(snapshot.commits), MetricType::Counter));
  families->push_back(Scalar("ham_store_failed_commits_total", "Transactions that failed.",
                             Count(snapshot.failed_commits), MetricType::Counter));
  families->push_back(
      Scalar("ham_store_failed", "1 while the store is read-only after a failure.", snapshot.store_failed ? 1 : 0));
}

// By (device, state): BUSY, also with a problem; UNUSABLE, of a problem; FREE. Those of excluded workers are not free.
std::map<std::pair<std::string, std::string>, int64_t> CountSlots(const WorkerView& worker) {
  std::map<std::pair<std::string, std::string>, int64_t> counts;
  for (const ham::v1::Slot& slot : worker.slots) {
    for (const char* state : {"BUSY", "FREE", "UNUSABLE"}) counts.try_emplace({slot.device(), state}, 0);
    if (worker.state == Worker::UNREACHABLE) continue;
    const bool busy = !slot.job().empty();
    if (!busy && !slot.has_problem() && worker.state != Worker::CONNECTED) continue;
    ++counts[{slot.device(), busy ? "BUSY" : slot.has_problem() ? "UNUSABLE" : "FREE"}];
  }
  return counts;
}

struct WorkerFamilies {
  MetricFamily info = Family("ham_worker_info", "Always 1; build and state of a worker.");
  MetricFamily connected = Family("ham_worker_connected", "1 while a worker is connected and heard, else 0.");
  MetricFamily age = Family("ham_worker_beat_age_seconds", "Time since a worker was heard last.");
  MetricFamily slots = Family("ham_worker_slots", "Slots of a worker by device and state.");
  MetricFamily problems = Family("ham_slot_problem", "1 while a slot has a problem of this kind and gets no ranks.");

  void Add(const WorkerView& worker, absl::Duration now) {
    const std::string& name = worker.row.name;
    AddMetric(&info,
              {{"worker", name}, {"build_id", LabelText(worker.build_id)}, {"state", Worker::State_Name(worker.state)}},
              1);
    AddMetric(&connected, {{"worker", name}}, worker.state == Worker::UNREACHABLE ? 0 : 1);
    if (worker.heard != -absl::InfiniteDuration()) {
      AddMetric(&age, {{"worker", name}}, std::max(0.0, absl::ToDoubleSeconds(now - worker.heard)));
    }
    for (const auto& [kind, count] : CountSlots(worker)) {
      AddMetric(&slots, {{"worker", name}, {"device", kind.first}, {"state", kind.second}}, Count(count));
    }
    for (const ham::v1::Slot& slot : worker.slots) {
      if (worker.state == Worker::UNREACHABLE || !slot.has_problem()) continue;
      AddMetric(&problems,
                {{"worker", name},
                 {"slot", absl::StrCat(slot.index())},
                 {"kind", ham::v1::SlotProblem::Kind_Name(slot.problem().kind())}},
                1);
    }
  }
};

}  // namespace

void AddClusterFamilies(const ClusterSnapshot& snapshot, absl::Duration now, MetricFamilies* families) {
  MetricFamily build = Family("ham_build_info", "Always 1; version and build of the coordinator.");
  AddMetric(&build, {{"version", kVersion}, {"build_id", BuildId()}}, 1);
  families->push_back(std::move(build));
  AddJobCounts(snapshot, now, families);
  AddCore(snapshot, now, families);
}

void AddWorkerFamilies(const ClusterSnapshot& snapshot, absl::Duration now, MetricFamilies* families) {
  std::map<Worker::State, int64_t> by_state;
  std::map<std::pair<std::string, std::string>, int64_t> slots_by;
  WorkerFamilies each;
  for (const WorkerView& worker : snapshot.workers) {
    ++by_state[worker.state];
    for (const auto& [kind, count] : CountSlots(worker)) slots_by[kind] += count;
    if (now - std::max(worker.heard, snapshot.start) < kWorkerSeriesLife) each.Add(worker, now);
  }
  MetricFamily workers = Family("ham_workers", "Workers by state.");
  for (const auto state : {Worker::CONNECTED, Worker::UNREACHABLE, Worker::EXCLUDED}) {
    AddMetric(&workers, {{"state", Worker::State_Name(state)}}, Count(by_state[state]));
  }
  families->push_back(std::move(workers));
  MetricFamily slots = Family("ham_slots", "Slots of connected workers by device and state.");
  for (const auto& [kind, count] : slots_by) {
    AddMetric(&slots, {{"device", kind.first}, {"state", kind.second}}, Count(count));
  }
  families->push_back(std::move(slots));
  for (MetricFamily* family : {&each.info, &each.connected, &each.age, &each.slots, &each.problems}) {
    if (!family->metric.empty()) families->push_back(std::move(*family));
  }
}

}  // namespace ham::server
