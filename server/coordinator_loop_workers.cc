// What workers say and what they are told: control streams, assignments, reports.
#include <spdlog/spdlog.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/log.h"
#include "server/coordinator_loop.h"
#include "server/job_view.h"
#include "server/utf8.h"

namespace ham::server {
namespace {

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration result;
  result.set_seconds(absl::ToInt64Seconds(duration));
  result.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration - absl::Seconds(result.seconds()))));
  return result;
}

}  // namespace

// ---- workers -----------------------------------------------------------------------------------------------

void CoordinatorLoop::Register(ham::v1::RegisterWorker registration, std::shared_ptr<WorkerStream> stream,
                               std::function<void(absl::StatusOr<int64_t> session)> done) {
  const size_t bytes = registration.ByteSizeLong();
  auto event = std::make_shared<const WorkerRegistered>(WorkerRegistered{std::move(registration)});
  const auto run = [this, event, stream, done]() -> Completion {
    const absl::Status status = ApplyEvent(*event);
    if (status.ok()) batch_streams_.insert(event->registration.worker_id());
    return [this, status, event, stream, done](const absl::Status& commit) {
      if (!status.ok()) return done(status);
      if (!commit.ok()) return done(commit);
      const std::string& id = event->registration.worker_id();
      const int64_t session = core_.FindWorker(id)->session;
      std::shared_ptr<WorkerStream>& current = streams_[id];
      if (current != nullptr) current->End(absl::AbortedError("a newer connection of this worker took its place"));
      current = stream;
      ham::v1::CoordinatorMessage message;
      ham::v1::Welcome& welcome = *message.mutable_welcome();
      welcome.set_cluster_id(options_.cluster_id);
      welcome.set_term(options_.term);
      welcome.set_session(session);
      *welcome.mutable_heartbeat_interval() = ToProto(options_.heartbeat);
      *welcome.mutable_lease() = ToProto(options_.lease);
      *welcome.mutable_terminate_grace() = ToProto(options_.terminate_grace);
      stream->Send(std::move(message));
      unsent_.insert(id);
      snapshot_due_ = true;
      done(session);
    };
  };
  Post({.run = run, .refuse = [done](const absl::Status& status) { done(status); }, .bytes = bytes});
}

void CoordinatorLoop::Beat(const std::string& worker_id, int64_t session, ham::v1::Beat beat, Done done) {
  const size_t bytes = beat.ByteSizeLong();
  auto shared = std::make_shared<const ham::v1::Beat>(std::move(beat));
  Post({.run = [this, worker_id, session, shared, done]() -> Completion {
          const absl::Status status =
              ApplyEvent(WorkerBeat{.worker_id = worker_id,
                                    .session = session,
                                    .observed = {shared->observed().begin(), shared->observed().end()},
                                    .desired_version = shared->desired_version(),
                                    .leaving = shared->leaving(),
                                    .problems = {shared->problems().begin(), shared->problems().end()}});
          // Of no interest to the core.
          if (status.ok()) gpus_[worker_id].assign(shared->gpus().begin(), shared->gpus().end());
          return [status, done](const absl::Status& commit) { done(status.ok() ? commit : status); };
        },
        .refuse = done,
        .bytes = bytes});
}

void CoordinatorLoop::Disconnected(const std::string& worker_id, int64_t session, const WorkerStream* stream) {
  Post({.run = [this, worker_id, session, stream]() -> Completion {
          const auto is_current = [this, worker_id, stream] {
            const auto found = streams_.find(worker_id);
            return found != streams_.end() && found->second.get() == stream;
          };
          if (!is_current()) return [](const absl::Status&) {};
          // Unless a newer one came just before.
          if (batch_streams_.count(worker_id) == 0) ApplyEvent(WorkerDisconnected{worker_id, session}).IgnoreError();
          return [this, worker_id, session, stream, is_current](const absl::Status& commit) {
            if (!commit.ok()) {
              undone_ends_.emplace_back(worker_id, session, stream);
            } else if (is_current()) {
              streams_.erase(worker_id);
              snapshot_due_ = true;
            }
          };
        },
        .refuse = nullptr});
}

// Level-triggered: only the newest set counts.
void CoordinatorLoop::SendDesired(const std::string& worker_id) {
  const auto stream = streams_.find(worker_id);
  if (stream == streams_.end()) return;  // told when it registers
  ham::v1::CoordinatorMessage message;
  ham::v1::DesiredAssignments& desired = *message.mutable_desired();
  desired.set_version(core_.DesiredVersion(worker_id));
  for (const DesiredRank& rank : core_.Desired(worker_id)) {
    const absl::StatusOr<std::shared_ptr<const ham::v1::JobSpec>> spec = SpecOf(rank.job);
    absl::StatusOr<Evaluation*> evaluation = nullptr;
    if (core_.FindJob(rank.job)->pool && spec.ok()) evaluation = EvaluationOf(rank.job);
    if (!spec.ok() || !evaluation.ok()) {
      const absl::Status& why = spec.ok() ? evaluation.status() : spec.status();
      const std::string problem = absl::StrCat(spec.ok() ? "The log of " : "The spec of ", rank.job,
                                               " cannot be read: ", std::string(why.message()));
      Log(spdlog::level::err, {.job = rank.job}, problem);
      const bool lost = absl::IsDataLoss(why) || absl::IsNotFound(why);
      if (!lost || store_failed_) {
        unsent_.insert(worker_id);  // with the next batch
        return;
      }
      Apply(JobBroken{rank.job, problem}, [this, worker_id](const absl::Status& status) {
        if (!status.ok()) unsent_.insert(worker_id);
      });
      continue;
    }
    ham::v1::Assignment& assignment = *desired.add_assignments();
    if (*evaluation != nullptr) {
      for (const WorkBlock& block : (*evaluation)->pool.WorkOf(rank.rank, parts_.clock->Read().steady)) {
        ham::v1::WorkBlock& out = *assignment.add_blocks();
        out.set_stage(block.stage);
        out.mutable_rows()->Add(block.rows.begin(), block.rows.end());
      }
    }
    assignment.set_job(rank.job);
    assignment.set_attempt(rank.attempt);
    *assignment.mutable_spec() = **spec;
    assignment.set_rank(rank.rank);
    assignment.set_world_size(rank.world_size);
    assignment.set_slot(rank.slot);
    if (rank.checkpoint) *assignment.mutable_checkpoint() = *rank.checkpoint;
  }
  stream->second->Send(std::move(message));
}

absl::StatusOr<std::shared_ptr<const ham::v1::JobSpec>> CoordinatorLoop::SpecOf(const std::string& job) {
  const auto known = specs_.find(job);
  if (known != specs_.end()) return known->second;
  absl::StatusOr<JobContent> content = parts_.store->GetContent(job);
  if (!content.ok()) return content.status();
  return specs_[job] = std::make_shared<const ham::v1::JobSpec>(std::move(content->spec));
}

absl::Status CoordinatorLoop::CheckFence(const ham::v1::Fence& fence) const {
  if (fence.cluster_id() != options_.cluster_id) {
    return absl::AbortedError(absl::StrCat("cluster ", fence.cluster_id(), " is not this one (", options_.cluster_id,
                                           "): the attempt is not known here; stop it"));
  }
  return core_.CheckFence(fence.session(), fence.job(), fence.attempt());
}

// ---- reports -----------------------------------------------------------------------------------------------

void CoordinatorLoop::Append(ham::v1::ReportRequest report,
                             std::function<void(absl::StatusOr<ham::v1::ReportResponse>)> done) {
  const size_t bytes = report.ByteSizeLong();
  auto shared = std::make_shared<const ham::v1::ReportRequest>(std::move(report));
  Post({.run = [this, shared, done]() -> Completion {
          absl::StatusOr<ham::v1::ReportResponse> response = ApplyAppend(*shared);
          return [response = std::move(response), done](const absl::Status& commit) {
            if (response.ok() && !commit.ok()) {
              done(commit);
            } else {
              done(response);
            }
          };
        },
        .refuse = done,
        .bytes = bytes,
        .durable = true});
}

absl::StatusOr<ham::v1::ReportResponse> CoordinatorLoop::ApplyAppend(const ham::v1::ReportRequest& report) {
  const ham::v1::Fence& fence = report.fence();
  ham::v1::ReportResponse response;
  response.set_job(fence.job());
  response.set_attempt(fence.attempt());
  response.set_rank(report.rank());
  std::string worker;
  if (CheckFence(fence).ok()) {
    for (const Placement& place : core_.FindJob(fence.job())->gang) {
      if (place.rank != report.rank() || place.session != fence.session()) continue;
      worker = core_.FindWorker(place.worker_id)->name;
    }
  }
  if (worker.empty()) {
    response.set_fenced(true);
    return response;
  }
  const SpoolKey key = {fence.job(), fence.attempt(), report.rank()};
  const absl::StatusOr<int64_t> position = SpoolPosition(key);
  if (!position.ok()) return StoreFailed();
  // Known before its log has these records.
  if (core_.FindJob(fence.job())->pool && !EvaluationOf(fence.job()).ok()) return StoreFailed();
  int64_t held = *position;
  for (const ham::v1::SpooledRecord& spooled : report.records()) {
    if (spooled.spool_sequence() <= held) continue;  // sent again
    held = spooled.spool_sequence();
    AddSpooled(report, worker, spooled);
  }
  if (held != *position) batch_spools_[key] = held;
  response.set_acknowledged_sequence(held);
  snapshot_dirty_ = true;
  return response;
}

absl::StatusOr<int64_t> CoordinatorLoop::SpoolPosition(const SpoolKey& key) {
  if (const auto batch = batch_spools_.find(key); batch != batch_spools_.end()) return batch->second;
  if (const auto known = spools_.find(key); known != spools_.end()) return known->second;
  const absl::StatusOr<int64_t> stored = parts_.store->GetSpool(std::get<0>(key), std::get<1>(key), std::get<2>(key));
  if (stored.ok()) spools_[key] = *stored;
  return stored;
}

void CoordinatorLoop::AddSpooled(const ham::v1::ReportRequest& report, const std::string& worker,
                                 const ham::v1::SpooledRecord& spooled) {
  ham::v1::JobRecord record;
  const bool timed = spooled.has_time() && IsTimestamp(spooled.time());
  *record.mutable_time() = timed ? spooled.time() : ToTimestamp(parts_.clock->Read().wall);
  record.set_attempt(report.fence().attempt());
  if (spooled.has_finding()) {
    *record.mutable_finding() = spooled.finding();
    return AddFinding(report.fence(), std::move(record));
  }
  std::string refusal;
  if (spooled.has_metric()) {
    const size_t bytes = spooled.metric().ByteSizeLong();
    if (bytes <= options_.limits.metric_bytes) {
      *record.mutable_metric() = spooled.metric();
      AddRecord(report.fence().job(), std::move(record));
      return;
    }
    refusal = absl::StrCat("The coordinator dropped a metric point of ", bytes, " bytes; it keeps up to ",
                           options_.limits.metric_bytes, ".\n");
  }
  const std::string& log_text = spooled.has_metric() ? refusal : spooled.log_text();
  for (std::string& text : SplitUtf8(log_text, options_.limits.log_chunk_bytes)) {
    ham::v1::LogChunk& log = *record.mutable_log();
    log.set_rank(report.rank());
    log.set_worker(worker);
    log.set_text(std::move(text));
    AddRecord(report.fence().job(), record);
  }
}

}  // namespace ham::server
