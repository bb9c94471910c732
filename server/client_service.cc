#include "server/client_service.h"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/log.h"
#include "proto/rpc_status.h"
#include "proto/version.h"
#include "server/artifact_calls.h"
#include "server/evaluated_weights.h"
#include "server/job_request.h"
#include "server/job_view.h"
#include "server/loop_calls.h"

namespace ham::server {
namespace {

using ham::v1::Job;

constexpr size_t kPageBytes = 1 << 20;  // of ListJobs; clients take messages of 4 MiB

absl::Status NoSuchJob(const std::string& name) {
  return WithReason(absl::NotFoundError(absl::StrCat("job ", name, " does not exist; `hamctl list` shows all jobs")),
                    "JOB_NOT_FOUND");
}

// The core's refusals with the reasons of the API.
absl::Status WithCancelReason(const absl::Status& status, const std::string& job) {
  if (absl::IsNotFound(status)) return NoSuchJob(job);
  if (absl::IsFailedPrecondition(status)) return WithReason(status, "JOB_ENDED");
  return status;
}

absl::Status WithStoreReason(const absl::Status& status) {
  return WithReason(status, absl::IsDataLoss(status) ? "STORE_DAMAGED" : "STORE_FAILED");
}

template <class Message>
grpc::Status Answer(absl::StatusOr<Message> result, Message* response) {
  if (!result.ok()) return ToGrpc(result.status());
  *response = *std::move(result);
  return grpc::Status::OK;
}

void FillContent(const JobContent& content, Job* job) {
  *job->mutable_spec() = content.spec;
  job->mutable_labels()->insert(content.labels.begin(), content.labels.end());
}

// One watch. Each write is answered to the hub; the hub alone ends it.
class WatchStream : public grpc::ServerWriteReactor<ham::v1::WatchJobResponse> {
 public:
  explicit WatchStream(const ServiceParts& parts)
      : open_(&parts.streams->watch), parts_(parts), id_(parts.hub->NewId()) {}

  void Start(const WatchRequest& request, const std::string& name, const JobContent& content) {
    parts_.loop->Inspect([this, request, name, content](const absl::StatusOr<CoordinatorLoop::View>& view) {
      absl::Status status = view.status();
      if (status.ok()) {
        const JobRow* row = view->core().FindJob(name);
        if (row == nullptr) {
          status = NoSuchJob(name);
        } else {
          Job job;
          FillContent(content, &job);
          FillJob(*row, &job);
          status = parts_.hub->Add(id_, job, view->LastSequence(name), request, std::make_shared<Sink>(this));
        }
      }
      if (!status.ok()) Finish(ToGrpc(status));
    });
  }

  void OnWriteDone(bool ok) override { parts_.hub->Written(id_, ok); }
  void OnCancel() override { parts_.hub->Cancel(id_); }
  void OnDone() override { delete this; }

 private:
  // The hub lets go of it with End, after which the stream may go.
  class Sink : public WatchSink {
   public:
    explicit Sink(WatchStream* stream) : stream_(stream) {}
    void Send(ham::v1::WatchJobResponse response) override {
      stream_->response_ = std::move(response);
      stream_->StartWrite(&stream_->response_);
    }
    void End(const absl::Status& status) override { stream_->Finish(ToGrpc(status)); }

   private:
    WatchStream* const stream_;
  };

  const OpenStream open_;
  const ServiceParts parts_;
  const uint64_t id_;
  ham::v1::WatchJobResponse response_;  // in flight
};

// A watch that was refused.
class RefusedWatch : public grpc::ServerWriteReactor<ham::v1::WatchJobResponse> {
 public:
  explicit RefusedWatch(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

JobServiceImpl::JobServiceImpl(const ServiceParts& parts, const Limits& limits, std::function<std::string()> new_id)
    : parts_(parts), limits_(limits), new_id_(std::move(new_id)) {}

absl::StatusOr<JobRow> JobServiceImpl::FindRow(const std::string& name) const {
  JobRow found;
  const absl::Status status = ReadAndWait(parts_.loop, [&](const CoordinatorLoop::View& view) {
    const JobRow* row = view.core().FindJob(name);
    if (row == nullptr) return NoSuchJob(name);
    found = *row;
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return found;
}

absl::StatusOr<Job> JobServiceImpl::ReadJob(const std::string& name) const {
  const absl::StatusOr<JobRow> row = FindRow(name);
  if (!row.ok()) return row.status();
  return WithContent(*row);
}

absl::StatusOr<Job> JobServiceImpl::WithContent(const JobRow& row) const {
  Job job;
  FillJob(row, &job);
  const absl::StatusOr<JobContent> content = parts_.store->GetContent(row.name);
  if (!content.ok()) return WithStoreReason(content.status());
  FillContent(*content, &job);
  return job;
}

absl::StatusOr<Job> JobServiceImpl::Create(const Principal& principal, const ham::v1::CreateJobRequest& request) {
  ham::v1::JobSpec spec = request.spec();
  if (spec.has_evaluate()) {
    const absl::Status filled = FillFromJob(parts_, spec.mutable_evaluate());
    if (!filled.ok()) return filled;
  }
  absl::StatusOr<NewJob> job = CheckCreateJob(request, spec, principal.name, new_id_());
  if (!job.ok()) return job.status();
  if (job->row.pool) {
    const absl::Status here = CheckWeightsAreHere(parts_.artifacts, job->content.spec.evaluate().weights());
    if (!here.ok()) return here;
  }
  const absl::StatusOr<JobRow> row = CreateJobAndWait(parts_.loop, *std::move(job));
  if (!row.ok()) return row.status();
  Log(spdlog::level::info, {.job = row->name, .request_id = request.request_id()},
      absl::StrCat(row->name, " is what ", principal.name, " asked for",
                   request.request_id().empty() ? "" : absl::StrCat(" by request ", request.request_id())));
  return WithContent(*row);
}

grpc::Status JobServiceImpl::CreateJob(grpc::ServerContext* context, const ham::v1::CreateJobRequest* request,
                                       Job* response) {
  const absl::StatusOr<Principal> principal = parts_.authenticator->Authorize(*context, Role::kAdmin);
  if (!principal.ok()) return ToGrpc(principal.status());
  return Answer(Create(*principal, *request), response);
}

grpc::Status JobServiceImpl::GetJob(grpc::ServerContext* context, const ham::v1::GetJobRequest* request,
                                    Job* response) {
  const absl::StatusOr<Principal> principal = parts_.authenticator->Authorize(*context, Role::kAdmin);
  if (!principal.ok()) return ToGrpc(principal.status());
  if (const absl::Status status = CheckJobName(request->name()); !status.ok()) return ToGrpc(status);
  return Answer(ReadJob(request->name()), response);
}

absl::StatusOr<ham::v1::ListJobsResponse> JobServiceImpl::List(const ham::v1::ListJobsRequest& request) const {
  const absl::StatusOr<PageRequest> page = CheckListJobs(request);
  if (!page.ok()) return page.status();
  const std::set<int> states(request.states().begin(), request.states().end());
  ham::v1::ListJobsResponse response;
  std::vector<int64_t> indexes;  // of its jobs
  absl::Status status = ReadAndWait(parts_.loop, [&](const CoordinatorLoop::View& view) {
    auto next = view.by_index().lower_bound(page->before);
    while (next != view.by_index().begin()) {
      --next;
      const JobRow* row = view.core().FindJob(next->second);
      if (row == nullptr || (!states.empty() && states.count(row->state) == 0)) continue;
      if (response.jobs_size() == page->size) {
        response.set_next_page_token(PageToken(request, indexes.back()));
        break;
      }
      FillJob(*row, response.add_jobs());
      indexes.push_back(next->first);
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  size_t bytes = 0;
  for (int i = 0; i < response.jobs_size(); ++i) {
    Job& job = *response.mutable_jobs(i);
    const absl::StatusOr<std::map<std::string, std::string>> labels = parts_.store->GetLabels(job.name());
    if (labels.ok()) {
      job.mutable_labels()->insert(labels->begin(), labels->end());
    } else if (!absl::IsDataLoss(labels.status())) {  // one damaged job must not hide the others
      return WithStoreReason(labels.status());
    }
    bytes += job.ByteSizeLong();
    if (i == 0 || bytes <= kPageBytes) continue;
    response.set_next_page_token(PageToken(request, indexes[static_cast<size_t>(i) - 1]));
    response.mutable_jobs()->DeleteSubrange(i, response.jobs_size() - i);
  }
  return response;
}

grpc::Status JobServiceImpl::ListJobs(grpc::ServerContext* context, const ham::v1::ListJobsRequest* request,
                                      ham::v1::ListJobsResponse* response) {
  const absl::StatusOr<Principal> principal = parts_.authenticator->Authorize(*context, Role::kAdmin);
  if (!principal.ok()) return ToGrpc(principal.status());
  return Answer(List(*request), response);
}

grpc::Status JobServiceImpl::CancelJob(grpc::ServerContext* context, const ham::v1::CancelJobRequest* request,
                                       Job* response) {
  const absl::StatusOr<Principal> principal = parts_.authenticator->Authorize(*context, Role::kAdmin);
  if (!principal.ok()) return ToGrpc(principal.status());
  if (const absl::Status status = CheckJobName(request->name()); !status.ok()) return ToGrpc(status);
  const absl::Status status = ApplyAndWait(parts_.loop, ham::server::CancelJob{request->name(), principal->name});
  if (!status.ok()) return ToGrpc(WithCancelReason(status, request->name()));
  return Answer(ReadJob(request->name()), response);
}

grpc::ServerWriteReactor<ham::v1::WatchJobResponse>* JobServiceImpl::WatchJob(grpc::CallbackServerContext* context,
                                                                              const ham::v1::WatchJobRequest* request) {
  const absl::StatusOr<Principal> principal = parts_.authenticator->Authorize(*context, Role::kAdmin);
  if (!principal.ok()) return new RefusedWatch(principal.status());
  const absl::StatusOr<WatchRequest> watch = CheckWatchJob(*request);
  if (!watch.ok()) return new RefusedWatch(watch.status());
  const absl::StatusOr<JobContent> content = parts_.store->GetContent(request->name());
  if (absl::IsNotFound(content.status())) return new RefusedWatch(NoSuchJob(request->name()));
  if (!content.ok()) return new RefusedWatch(WithStoreReason(content.status()));
  auto* stream = new WatchStream(parts_);
  stream->Start(*watch, request->name(), *content);
  return stream;
}

absl::Status JobServiceImpl::TakeWeights(grpc::ServerReader<ham::v1::UploadWeightsRequest>* reader) const {
  ham::v1::UploadWeightsRequest chunk;
  if (!reader->Read(&chunk)) return absl::InvalidArgumentError("an upload begins with digest and size");
  const std::string digest = chunk.digest();
  const absl::StatusOr<ArtifactStore::Held> held = parts_.artifacts->Query(digest);
  if (!held.ok()) return held.status();
  if (held->complete) return absl::OkStatus();
  const ArtifactUpload upload(parts_.artifacts, digest, chunk.size(), limits_.artifact_bytes);
  do {
    const absl::Status status = upload.PutWhatIsMissing(chunk.offset(), chunk.data());
    if (!status.ok()) return status;
  } while (reader->Read(&chunk));
  return upload.Commit();
}

grpc::Status JobServiceImpl::UploadWeights(grpc::ServerContext* context,
                                           grpc::ServerReader<ham::v1::UploadWeightsRequest>* reader,
                                           ham::v1::UploadWeightsResponse*) {
  const absl::StatusOr<Principal> principal = parts_.authenticator->Authorize(*context, Role::kAdmin);
  if (!principal.ok()) return ToGrpc(principal.status());
  return ToGrpc(TakeWeights(reader));
}

absl::Status JobServiceImpl::GiveRecord(const std::string& job,
                                        grpc::ServerWriter<ham::v1::GetEvaluationRecordResponse>* writer) const {
  const absl::StatusOr<JobRow> row = FindRow(job);
  if (!row.ok()) return row.status();
  if (!row->pool) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat("job ", job, " is a training; evaluations have records")),
        "NOT_AN_EVALUATION");
  }
  if (row->state != Job::SUCCEEDED) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat("job ", job, " is ", Job::State_Name(row->state),
                                                                 "; it has a record once it is SUCCEEDED")),
                      "NO_RECORD");
  }
  return SendArtifact(parts_.artifacts, row->record_digest, 0, writer);
}

grpc::Status JobServiceImpl::GetEvaluationRecord(grpc::ServerContext* context,
                                                 const ham::v1::GetEvaluationRecordRequest* request,
                                                 grpc::ServerWriter<ham::v1::GetEvaluationRecordResponse>* writer) {
  const absl::StatusOr<Principal> principal = parts_.authenticator->Authorize(*context, Role::kAdmin);
  if (!principal.ok()) return ToGrpc(principal.status());
  if (const absl::Status status = CheckJobName(request->name()); !status.ok()) return ToGrpc(status);
  return ToGrpc(GiveRecord(request->name(), writer));
}

grpc::Status ClusterServiceImpl::ListWorkers(grpc::ServerContext* context, const ham::v1::ListWorkersRequest*,
                                             ham::v1::ListWorkersResponse* response) {
  const absl::StatusOr<Principal> principal = parts_.authenticator->Authorize(*context, Role::kAdmin);
  if (!principal.ok()) return ToGrpc(principal.status());
  const std::shared_ptr<const ClusterSnapshot> snapshot = parts_.snapshot->Get();
  for (const WorkerView& worker : snapshot->workers) *response->add_workers() = ToWorker(worker);
  return grpc::Status::OK;
}

grpc::Status ClusterServiceImpl::GetVersion(grpc::ServerContext*, const ham::v1::GetVersionRequest*,
                                            ham::v1::GetVersionResponse* response) {
  response->set_version(kVersion);
  response->set_build_id(BuildId());
  response->set_signing_key(parts_.signing_key);
  return grpc::Status::OK;
}

}  // namespace ham::server
