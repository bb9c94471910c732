// A coordinator that does what a test tells it: in this process, on loopback, without TLS.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "grpcpp/server.h"
#include "ham/v1/worker_service.grpc.pb.h"
#include "proto/channel.h"
#include "server/artifact_store.h"

namespace ham::testing {

// Any thread may call any method. What it was told and what it has seen outlives Stop.
class ScriptedCoordinator final : public ham::v1::WorkerService::Service {
 public:
  using RankKey = std::tuple<std::string, int, int>;  // job, attempt, rank

  struct Seen {
    int registrations = 0;
    int welcomes = 0;
    ham::v1::RegisterWorker registration;                            // the newest
    std::vector<ham::v1::ObservedRank> observed;                     // by the newest beat or registration
    std::vector<ham::v1::GpuReading> gpus;                           // by the newest beat
    std::vector<ham::v1::SlotProblem> problems;                      // by the newest beat
    bool leaving = false;                                            // by the newest beat
    std::map<RankKey, std::vector<ham::v1::SpooledRecord>> records;  // each sequence once, in the order of arrival
    int repeated_records = 0;
    std::vector<ham::v1::CommitCheckpointRequest> commits;
    int64_t uploaded_bytes = 0;
    std::vector<int64_t> download_offsets;
  };
  // What faults a test wants; read at each call.
  struct Script {
    bool silent = false;       // registrations get no answer
    grpc::Status refusal;      // of registrations
    ham::v1::Welcome welcome;  // session and cluster_id are those of the fences
    bool fenced = false;       // answer of reports
    int answers_to_lose = 0;   // of reports: the records are kept, the connection breaks
    std::function<grpc::Status(const ham::v1::UploadArtifactRequest&)> on_chunk;  // before it is stored
    std::function<grpc::Status(ham::v1::DownloadArtifactResponse*)> on_download;  // before it is sent
    std::function<void()> on_query;                                               // before the answer
  };

  explicit ScriptedCoordinator(const std::string& artifacts);
  ~ScriptedCoordinator() override { Stop(); }

  // On any free port first, on the same one later.
  void Start();
  // Breaks all connections.
  void Stop();
  ConnectionConfig connection() const;
  ham::server::ArtifactStore* artifacts() { return artifacts_.get(); }

  void Change(const std::function<void(Script*)>& change);
  // Of the connected worker, and of each that connects.
  void Desire(const std::vector<ham::v1::Assignment>& assignments);
  // Breaks the control stream.
  void Disconnect();
  // Waits at most 20 s until `holds`.
  bool Await(const std::function<bool(const Seen&)>& holds);
  Seen seen();

  grpc::Status Control(grpc::ServerContext* context,
                       grpc::ServerReaderWriter<ham::v1::CoordinatorMessage, ham::v1::AgentMessage>* stream) override;
  grpc::Status Report(grpc::ServerContext* context,
                      grpc::ServerReaderWriter<ham::v1::ReportResponse, ham::v1::ReportRequest>* stream) override;
  grpc::Status SetRendezvousKey(grpc::ServerContext* context, const ham::v1::SetRendezvousKeyRequest* request,
                                ham::v1::SetRendezvousKeyResponse* response) override;
  grpc::Status GetRendezvousKey(grpc::ServerContext* context, const ham::v1::GetRendezvousKeyRequest* request,
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
  Script script();

  const std::unique_ptr<ham::server::ArtifactStore> artifacts_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  absl::Mutex mutex_;
  Script script_ ABSL_GUARDED_BY(mutex_);
  Seen seen_ ABSL_GUARDED_BY(mutex_);
  ham::v1::DesiredAssignments desired_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> keys_ ABSL_GUARDED_BY(mutex_);
  grpc::ServerContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;  // of the control stream
  grpc::ServerReaderWriter<ham::v1::CoordinatorMessage, ham::v1::AgentMessage>* stream_ ABSL_GUARDED_BY(mutex_) =
      nullptr;
};

}  // namespace ham::testing
