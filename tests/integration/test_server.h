// The real coordinator in this process, and the few calls that most tests make. What waits has a bound (kBound).
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/rpc/error_details.pb.h"
#include "grpcpp/grpcpp.h"
#include "ham/v1/cluster_service.grpc.pb.h"
#include "ham/v1/job_service.grpc.pb.h"
#include "ham/v1/worker_service.grpc.pb.h"
#include "proto/channel.h"
#include "proto/rpc_status.h"
#include "server/server.h"
#include "tests/support/temporary_directory.h"

namespace ham::testing {

inline constexpr std::chrono::seconds kBound{20};

inline void SetBound(grpc::ClientContext* context) { context->set_deadline(std::chrono::system_clock::now() + kBound); }

// A server over a state directory of its own. Not thread-safe but for channels.
class TestServer {
 public:
  TestServer();

  // What Start uses: plaintext, no /metrics, a lease longer than any test.
  server::ServerOptions options;

  // Makes a new Server on the same state directory, whose ports are those of the last one.
  absl::Status Start();
  void Stop();
  // Stops it, but other threads may go on to ask for its addresses.
  void StopServing() { server_->Stop(); }
  absl::Status Restart();

  server::Server* operator->() { return server_.get(); }
  std::string StatePath(const std::string& name) const { return directory_ / ("state/" + name); }
  // Of the bootstrap and worker-join files.
  const ConnectionConfig& admin() const { return admin_; }
  const ConnectionConfig& worker() const { return worker_; }
  // A connection of its own for each call.
  std::shared_ptr<grpc::Channel> NewChannel() const;

 private:
  const TemporaryDirectory directory_;
  std::unique_ptr<server::Server> server_;
  ConnectionConfig admin_;
  ConnectionConfig worker_;
};

// A unary call with `config`'s token: `Call(stub, &Stub::GetJob, request, config)`.
template <class Stub, class Request, class Response>
absl::StatusOr<Response> Call(Stub* stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                              const Request& request, const ConnectionConfig& config) {
  grpc::ClientContext context;
  SetBound(&context);
  SetToken(config, &context);
  Response response;
  const grpc::Status status = (stub->*method)(&context, request, &response);
  if (!status.ok()) return FromGrpc(status);
  return response;
}

// A small job that any scripted worker can take.
ham::v1::JobSpec SmallSpec(int world_size = 1);
ham::v1::CreateJobRequest SmallRequest(int world_size = 1);
std::string Metadata(const absl::Status& status, const std::string& key);  // of ErrorInfo; "" if none

// The client API with the admin token.
class Client {
 public:
  explicit Client(const TestServer& server);

  absl::StatusOr<ham::v1::Job> Create(const ham::v1::CreateJobRequest& request);
  // Name of a new job; a test that fails here stops.
  std::string MustCreate(int world_size = 1);
  absl::StatusOr<ham::v1::Job> Get(const std::string& name);
  absl::StatusOr<ham::v1::Job> Cancel(const std::string& name);
  absl::StatusOr<ham::v1::ListJobsResponse> List(const ham::v1::ListJobsRequest& request);
  std::vector<ham::v1::Worker> Workers();
  // Follows the job until it is in `state`: its row then, or an error after kBound or at its end.
  absl::StatusOr<ham::v1::Job> WaitForState(const std::string& name, ham::v1::Job::State state);
  // The whole log as it is now.
  std::vector<ham::v1::JobRecord> Log(const std::string& name);

  ham::v1::JobService::Stub* jobs() { return jobs_.get(); }
  ham::v1::ClusterService::Stub* cluster() { return cluster_.get(); }
  const ConnectionConfig& config() const { return config_; }

 private:
  const ConnectionConfig config_;
  const std::unique_ptr<ham::v1::JobService::Stub> jobs_;
  const std::unique_ptr<ham::v1::ClusterService::Stub> cluster_;
};

// An open WatchJob; closes with its owner.
class Watch {
 public:
  Watch(Client* client, const ham::v1::WatchJobRequest& request);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // The next response; nullopt at the end.
  std::optional<ham::v1::WatchJobResponse> Next();
  // Reads on until a record satisfies `wanted`, or the end. True if one did.
  template <class Wanted>
  bool ReadUntil(Wanted wanted) {
    while (const std::optional<ham::v1::WatchJobResponse> response = Next()) {
      for (const ham::v1::JobRecord& record : response->records()) {
        if (wanted(record)) return true;
      }
    }
    return false;
  }
  // Reads the rest; how it ended.
  absl::Status End();

  // What was read so far.
  const std::vector<ham::v1::JobRecord>& records() const { return records_; }
  const std::string& token() const { return token_; }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<ham::v1::WatchJobResponse>> reader_;
  std::vector<ham::v1::JobRecord> records_;
  std::string token_;
  std::optional<absl::Status> end_;
};

// What a raw call brought: bytes of the messages and the end. `method` is "/package.Service/Method".
struct RawAnswer {
  std::vector<std::string> messages;
  absl::Status status;
};
RawAnswer RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method, const std::string& request,
                  const ConnectionConfig* config);

// Waits until `condition` holds; false after kBound. For what nobody announces.
bool Eventually(const std::function<bool()>& condition);

}  // namespace ham::testing
