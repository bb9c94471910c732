// What clients call: JobService and ClusterService, on top of the loop, the store and the hub.
//
// Unary calls and transfers of files wait on a thread of gRPC's pool; watches cost no thread.
#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "ham/v1/cluster_service.grpc.pb.h"
#include "ham/v1/job_service.grpc.pb.h"
#include "server/artifact_collector.h"
#include "server/artifact_store.h"
#include "server/authentication.h"
#include "server/coordinator_loop.h"
#include "server/open_streams.h"

namespace ham::server {

// What the services stand on; all of it outlives them.
struct ServiceParts {
  const Authenticator* authenticator = nullptr;
  CoordinatorLoop* loop = nullptr;
  Store* store = nullptr;
  WatchHub* hub = nullptr;
  RendezvousTable* rendezvous = nullptr;
  const SnapshotCell* snapshot = nullptr;
  ArtifactStore* artifacts = nullptr;
  ArtifactCollector* collector = nullptr;
  OpenStreams* streams = nullptr;
  std::string signing_key;  // GetVersionResponse.signing_key
};

class JobServiceImpl final : public ham::v1::JobService::WithCallbackMethod_WatchJob<ham::v1::JobService::Service> {
 public:
  // new_id gives ten random characters of [a-z0-9]; any thread.
  JobServiceImpl(const ServiceParts& parts, const Limits& limits, std::function<std::string()> new_id);

  grpc::Status CreateJob(grpc::ServerContext* context, const ham::v1::CreateJobRequest* request,
                         ham::v1::Job* response) override;
  grpc::Status GetJob(grpc::ServerContext* context, const ham::v1::GetJobRequest* request,
                      ham::v1::Job* response) override;
  grpc::Status ListJobs(grpc::ServerContext* context, const ham::v1::ListJobsRequest* request,
                        ham::v1::ListJobsResponse* response) override;
  grpc::Status CancelJob(grpc::ServerContext* context, const ham::v1::CancelJobRequest* request,
                         ham::v1::Job* response) override;
  grpc::ServerWriteReactor<ham::v1::WatchJobResponse>* WatchJob(grpc::CallbackServerContext* context,
                                                                const ham::v1::WatchJobRequest* request) override;
  grpc::Status UploadWeights(grpc::ServerContext* context, grpc::ServerReader<ham::v1::UploadWeightsRequest>* reader,
                             ham::v1::UploadWeightsResponse* response) override;
  grpc::Status GetEvaluationRecord(grpc::ServerContext* context, const ham::v1::GetEvaluationRecordRequest* request,
                                   grpc::ServerWriter<ham::v1::GetEvaluationRecordResponse>* writer) override;

 private:
  absl::StatusOr<JobRow> FindRow(const std::string& name) const;
  // The job as it is now, with spec and labels. NOT_FOUND.
  absl::StatusOr<ham::v1::Job> ReadJob(const std::string& name) const;
  absl::StatusOr<ham::v1::Job> WithContent(const JobRow& row) const;
  absl::StatusOr<ham::v1::Job> Create(const Principal& principal, const ham::v1::CreateJobRequest& request);
  absl::StatusOr<ham::v1::ListJobsResponse> List(const ham::v1::ListJobsRequest& request) const;
  absl::Status TakeWeights(grpc::ServerReader<ham::v1::UploadWeightsRequest>* reader) const;
  absl::Status GiveRecord(const std::string& job,
                          grpc::ServerWriter<ham::v1::GetEvaluationRecordResponse>* writer) const;

  const ServiceParts parts_;
  const Limits limits_;
  const std::function<std::string()> new_id_;
};

class ClusterServiceImpl final : public ham::v1::ClusterService::Service {
 public:
  explicit ClusterServiceImpl(const ServiceParts& parts) : parts_(parts) {}

  grpc::Status ListWorkers(grpc::ServerContext* context, const ham::v1::ListWorkersRequest* request,
                           ham::v1::ListWorkersResponse* response) override;
  grpc::Status GetVersion(grpc::ServerContext* context, const ham::v1::GetVersionRequest* request,
                          ham::v1::GetVersionResponse* response) override;

 private:
  const ServiceParts parts_;
};

}  // namespace ham::server
