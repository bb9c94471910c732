// Evaluations at work: findings into pools, work out of them, and at the end the record.
#include <spdlog/spdlog.h>

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/job_state.h"
#include "proto/log.h"
#include "server/coordinator_loop.h"
#include "server/job_view.h"

namespace ham::server {

using ham::v1::Job;

namespace {

constexpr absl::Duration kMetricsPeriod = absl::Seconds(1);
// How often work that is late is looked for.
constexpr absl::Duration kSettlePeriod = absl::Seconds(5);

bool IsActive(Job::State state) { return state == Job::STARTING || state == Job::RUNNING; }

}  // namespace

absl::StatusOr<CoordinatorLoop::Evaluation*> CoordinatorLoop::EvaluationOf(const std::string& job) {
  const auto known = evaluations_.find(job);
  if (known != evaluations_.end()) return &known->second;
  const absl::StatusOr<std::shared_ptr<const ham::v1::JobSpec>> spec = SpecOf(job);
  if (!spec.ok()) return spec.status();
  Evaluation evaluation{EvaluationPool((*spec)->evaluate())};
  for (int64_t after = 0;;) {
    const absl::StatusOr<std::vector<RecordPtr>> records =
        parts_.store->ReadLog(job, after, options_.limits.watch_page_records, options_.limits.watch_response_bytes);
    if (!records.ok()) return records.status();
    if (records->empty()) break;
    for (const RecordPtr& record : *records) {
      if (record->has_finding()) evaluation.pool.Apply(record->finding()).IgnoreError();  // see its status
    }
    after = records->back()->sequence();
  }
  evaluation.advances = evaluation.pool.advances();
  evaluation.pool.Retain(core_.FindJob(job)->attempt, core_.RunningRanks(job));
  Evaluation* const added = &evaluations_.emplace(job, std::move(evaluation)).first->second;
  if (!added->pool.status().ok()) Break(job, std::string(added->pool.status().message()));
  if (added->pool.done()) StartRecord(job, *added);
  settle_at_ = std::min(settle_at_, parts_.clock->Read().steady + kSettlePeriod);
  return added;
}

void CoordinatorLoop::AddFinding(const ham::v1::Fence& fence, ham::v1::JobRecord record) {
  if (!core_.FindJob(fence.job())->pool) return;  // of a training: nobody waits for it
  if (const size_t bytes = record.finding().ByteSizeLong(); bytes > options_.limits.finding_bytes) {
    ApplyEvent(JobBroken{fence.job(), absl::StrCat("a rank found something of ", bytes, " bytes; up to ",
                                                   options_.limits.finding_bytes, " are taken")})
        .IgnoreError();
    return;
  }
  // Each rank says the same inputs, megabytes of a large evaluation: the log keeps the first ones.
  const EvaluationPool& pool = evaluations_.at(fence.job()).pool;
  if (record.finding().has_inputs()) {
    if (std::optional<std::string> device = pool.DeviceOfSameInputs(record.finding().inputs())) {
      if (pool.KnowsDevice(*device)) return;
      record.mutable_finding()->set_device(*std::move(device));
    }
  }
  AddRecord(fence.job(), std::move(record));
}

void CoordinatorLoop::NoteFinding(const std::string& job, const ham::v1::EvaluationFinding& finding) {
  const auto found = evaluations_.find(job);
  if (found == evaluations_.end()) return;          // it has ended
  found->second.pool.Apply(finding).IgnoreError();  // see its status
  found->second.news = true;
}

void CoordinatorLoop::SettleEvaluation(const std::string& job) {
  const JobRow& row = *core_.FindJob(job);
  const auto found = evaluations_.find(job);
  if (found == evaluations_.end()) return;
  if (IsFinal(row.state)) {
    evaluations_.erase(found);
    return;
  }
  Evaluation& evaluation = found->second;
  EvaluationPool& pool = evaluation.pool;
  if (!pool.status().ok()) {
    // Until that is durable.
    if (row.failure_class != ham::v1::USER) Break(job, std::string(pool.status().message()));
    return;
  }
  const absl::Duration now = parts_.clock->Read().steady;
  pool.Retain(row.attempt, IsActive(row.state) ? core_.RunningRanks(job) : std::set<int>());
  for (const Placement& place : row.gang) {
    if (pool.HasWorkFor(place.rank, now)) unsent_.insert(place.worker_id);
  }
  if (std::exchange(evaluation.advances, pool.advances()) != pool.advances() && row.failed_attempts > 0) {
    Apply(WorkFinished{job}, [](const absl::Status&) {});
  }
  if (!IsActive(row.state)) return;
  if (pool.done()) return StartRecord(job, evaluation);
  if (evaluation.news && (pool.stage_ended() || now >= evaluation.said_at + kMetricsPeriod))
    SayMetrics(job, evaluation);
}

// In a batch of its own: this one is committed.
void CoordinatorLoop::SayMetrics(const std::string& job, Evaluation& evaluation) {
  std::optional<ham::v1::EvaluationMetrics> metrics = evaluation.pool.Metrics();
  if (!metrics) return;
  evaluation.news = false;
  evaluation.said_at = parts_.clock->Read().steady;
  Post({.run = [this, job, metrics = *std::move(metrics)]() -> Completion {
          if (IsActive(core_.FindJob(job)->state)) AddMetrics(job, metrics);
          return [](const absl::Status&) {};
        },
        .refuse = [](const absl::Status&) {},
        .durable = true});
}

void CoordinatorLoop::AddMetrics(const std::string& job, const ham::v1::EvaluationMetrics& metrics) {
  ham::v1::JobRecord record;
  *record.mutable_time() = ToTimestamp(parts_.clock->Read().wall);
  record.set_attempt(core_.FindJob(job)->attempt);
  *record.mutable_metric()->mutable_evaluation() = metrics;
  AddRecord(job, std::move(record));
}

void CoordinatorLoop::StartRecord(const std::string& job, Evaluation& evaluation) {
  if (std::exchange(evaluation.recording, true)) return;
  parts_.record(evaluation.pool.Record(), [this, job](absl::StatusOr<std::string> digest) {
    Post({.run = [this, job, digest = std::move(digest)]() -> Completion {
            FinishRecord(job, digest);
            return [this, job](const absl::Status&) {
              // Still there: not taken, or not durable. The next attempt, or the store once it is open, tries again.
              const auto found = evaluations_.find(job);
              if (found != evaluations_.end()) found->second.recording = false;
            };
          },
          .refuse = nullptr});
  });
}

void CoordinatorLoop::FinishRecord(const std::string& job, const absl::StatusOr<std::string>& digest) {
  const auto found = evaluations_.find(job);
  if (found == evaluations_.end() || !IsActive(core_.FindJob(job)->state)) return;
  if (!digest.ok()) {
    const std::string problem = absl::StrCat("the record cannot be made: ", std::string(digest.status().message()));
    Log(spdlog::level::err, {.job = job}, absl::StrCat(job, ": ", problem));
    ApplyEvent(JobBroken{job, problem}).IgnoreError();
    return;
  }
  AddMetrics(job, *found->second.pool.Metrics());
  ApplyEvent(EvaluationRecorded{job, *digest}).IgnoreError();
}

// For what could not become durable while the store had failed, and for work that is late.
void CoordinatorLoop::SettleEvaluations() {
  settle_at_ = parts_.clock->Read().steady + kSettlePeriod;
  std::set<std::string> jobs;
  for (const auto& [job, evaluation] : evaluations_) jobs.insert(job);
  for (const std::string& job : jobs) SettleEvaluation(job);
}

void CoordinatorLoop::Break(const std::string& job, const std::string& problem) {
  Log(spdlog::level::err, {.job = job}, absl::StrCat(job, ": ", problem));
  Apply(JobBroken{job, problem}, [](const absl::Status&) {});
}

}  // namespace ham::server
