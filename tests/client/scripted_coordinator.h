// A coordinator that answers as a test tells it: for failures that a real one shows only by chance.
#pragma once

#include <arpa/inet.h>
#include <grpcpp/grpcpp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "ham/v1/cluster_service.grpc.pb.h"
#include "ham/v1/job_service.grpc.pb.h"
#include "proto/channel.h"

namespace ham::testing {

class ScriptedCoordinator : private ham::v1::JobService::Service, private ham::v1::ClusterService::Service {
 public:
  using Watch = std::function<grpc::Status(grpc::ServerContext*, const ham::v1::WatchJobRequest&,
                                           grpc::ServerWriter<ham::v1::WatchJobResponse>*)>;

  // `port` 0 takes a free one.
  explicit ScriptedCoordinator(int port = 0) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(absl::StrCat("127.0.0.1:", port), grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(static_cast<ham::v1::JobService::Service*>(this));
    builder.RegisterService(static_cast<ham::v1::ClusterService::Service*>(this));
    server_ = builder.BuildAndStart();
  }
  ~ScriptedCoordinator() override { Stop(); }
  void Stop() {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    server_ = nullptr;
  }

  std::string endpoint() const { return absl::StrCat("127.0.0.1:", port_); }
  int port() const { return port_; }

  // The script; set before the calls.
  std::function<grpc::Status(grpc::ServerContext*)> get_job = [](grpc::ServerContext*) { return grpc::Status::OK; };
  ham::v1::Job job;  // with the name that was asked for
  Watch watch;
  std::function<grpc::Status(const ham::v1::CreateJobRequest&, ham::v1::Job*)> create_job;
  std::function<grpc::Status(grpc::ServerReader<ham::v1::UploadWeightsRequest>*)> upload;
  std::function<grpc::Status(const std::string& job, grpc::ServerWriter<ham::v1::GetEvaluationRecordResponse>*)> record;
  std::atomic<int> calls{0};
  std::string token;  // of the last GetJob, read after it

 private:
  grpc::Status GetJob(grpc::ServerContext* context, const ham::v1::GetJobRequest* request,
                      ham::v1::Job* response) override {
    ++calls;
    const auto& metadata = context->client_metadata();
    const auto found = metadata.find("authorization");
    if (found != metadata.end()) token.assign(found->second.data(), found->second.size());
    *response = job;
    response->set_name(request->name());
    return get_job(context);
  }
  grpc::Status WatchJob(grpc::ServerContext* context, const ham::v1::WatchJobRequest* request,
                        grpc::ServerWriter<ham::v1::WatchJobResponse>* writer) override {
    ++calls;
    return watch(context, *request, writer);
  }

  grpc::Status CreateJob(grpc::ServerContext*, const ham::v1::CreateJobRequest* request,
                         ham::v1::Job* response) override {
    return create_job(*request, response);
  }
  grpc::Status UploadWeights(grpc::ServerContext*, grpc::ServerReader<ham::v1::UploadWeightsRequest>* reader,
                             ham::v1::UploadWeightsResponse*) override {
    ++calls;
    return upload(reader);
  }
  grpc::Status GetEvaluationRecord(grpc::ServerContext*, const ham::v1::GetEvaluationRecordRequest* request,
                                   grpc::ServerWriter<ham::v1::GetEvaluationRecordResponse>* writer) override {
    ++calls;
    return record(request->name(), writer);
  }

  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

inline ConnectionConfig ConfigOf(const std::vector<std::string>& endpoints) { return {endpoints, "", "secret"}; }

// What an upload brought; its first message names digest and size.
struct Uploaded {
  std::string digest;
  int64_t size = 0;
  std::string text;
  size_t chunks = 0;
};
inline Uploaded ReceiveUpload(grpc::ServerReader<ham::v1::UploadWeightsRequest>* reader) {
  Uploaded out;
  ham::v1::UploadWeightsRequest chunk;
  while (reader->Read(&chunk)) {
    if (out.chunks++ == 0) {
      out.digest = chunk.digest();
      out.size = chunk.size();
    }
    if (chunk.offset() == static_cast<int64_t>(out.text.size())) out.text += chunk.data();
  }
  return out;
}

// Until the caller has given up; gRPC's synchronous server tells it only to who asks. At most 30 s.
inline void AwaitCancelled(grpc::ServerContext* context) {
  const absl::Time end = absl::Now() + absl::Seconds(30);
  while (!context->IsCancelled() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(1));
}

// Takes connections and says nothing.
class SilentSocket {
 public:
  SilentSocket() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* any = reinterpret_cast<sockaddr*>(&address);
    if (::bind(fd_, any, size) != 0 || ::listen(fd_, 16) != 0 || ::getsockname(fd_, any, &size) != 0) std::abort();
    port_ = ntohs(address.sin_port);
  }
  ~SilentSocket() { ::close(fd_); }
  SilentSocket(const SilentSocket&) = delete;
  SilentSocket& operator=(const SilentSocket&) = delete;
  std::string endpoint() const { return absl::StrCat("127.0.0.1:", port_); }

 private:
  const int fd_;
  int port_ = 0;
};

// An address of this host on which nobody listens.
inline std::string DeadEndpoint() {
  ScriptedCoordinator gone;
  return gone.endpoint();
}

}  // namespace ham::testing
