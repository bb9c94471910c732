// What workers call. Streams cost no thread; artifact transfers use one of gRPC's pool each.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "ham/v1/worker_service.grpc.pb.h"
#include "server/client_service.h"

namespace ham::server {

class WorkerServiceImpl final
    : public ham::v1::WorkerService::WithCallbackMethod_Control<
          ham::v1::WorkerService::WithCallbackMethod_Report<ham::v1::WorkerService::WithCallbackMethod_SetRendezvousKey<
              ham::v1::WorkerService::WithCallbackMethod_GetRendezvousKey<ham::v1::WorkerService::Service>>>> {
 public:
  WorkerServiceImpl(const ServiceParts& parts, const Limits& limits) : parts_(parts), limits_(limits) {}

  grpc::ServerBidiReactor<ham::v1::AgentMessage, ham::v1::CoordinatorMessage>* Control(
      grpc::CallbackServerContext* context) override;
  grpc::ServerBidiReactor<ham::v1::ReportRequest, ham::v1::ReportResponse>* Report(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* SetRendezvousKey(grpc::CallbackServerContext* context,
                                             const ham::v1::SetRendezvousKeyRequest* request,
                                             ham::v1::SetRendezvousKeyResponse* response) override;
  grpc::ServerUnaryReactor* GetRendezvousKey(grpc::CallbackServerContext* context,
                                             const ham::v1::GetRendezvousKeyRequest* request,
                                             ham::v1::GetRendezvousKeyResponse* response) override;
  grpc::Status QueryArtifact(grpc::ServerContext* context, const ham::v1::QueryArtifactRequest* request,
                             ham::v1::QueryArtifactResponse* response) override;
  grpc::Status UploadArtifact(grpc::ServerContext* context, grpc::ServerReader<ham::v1::UploadArtifactRequest>* reader,
                              ham::v1::UploadArtifactResponse* response) override;
  grpc::Status DownloadArtifact(grpc::ServerContext* context, const ham::v1::DownloadArtifactRequest* request,
                                grpc::ServerWriter<ham::v1::DownloadArtifactResponse>* writer) override;
  grpc::Status CommitCheckpoint(grpc::ServerContext* context, const ham::v1::CommitCheckpointRequest* request,
                                ham::v1::CommitCheckpointResponse* response) override;

 private:
  // ABORTED unless current.
  absl::Status CheckFence(const ham::v1::Fence& fence) const;
  absl::Status Upload(grpc::ServerReader<ham::v1::UploadArtifactRequest>* reader);
  absl::Status CheckMayRead(const std::string& digest, const JobRow& row);
  absl::Status Download(const ham::v1::DownloadArtifactRequest& request,
                        grpc::ServerWriter<ham::v1::DownloadArtifactResponse>* writer);
  // What this job was to get is damaged or missing. DATA_LOSS.
  absl::Status NoteLost(const JobRow& row, const absl::Status& problem);
  absl::Status CheckArtifacts(const ham::v1::CommitCheckpointRequest& request);

  const ServiceParts parts_;
  const Limits limits_;
};

}  // namespace ham::server
