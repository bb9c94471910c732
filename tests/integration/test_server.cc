#include "tests/integration/test_server.h"

#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpc/grpc.h"
#include "grpcpp/generic/generic_stub.h"

namespace ham::testing {

using ham::v1::Job;

TestServer::TestServer() {
  ::setenv("GRPC_VERBOSITY", "NONE", 0);
  static const bool once = (grpc_init(), true);  // its shutdown between two tests may take ten seconds
  static_cast<void>(once);
  std::signal(SIGPIPE, SIG_IGN);
  spdlog::set_level(spdlog::level::off);
  options.state_dir = directory_ / "state";
  options.listen = "127.0.0.1:0";
  options.metrics_listen = "";
  options.insecure = true;
  options.lease = absl::Minutes(10);
  options.heartbeat = absl::Seconds(1);
  options.limits.shutdown_grace = absl::Seconds(1);
  options.limits.store_reopen = absl::Milliseconds(20);
}

absl::Status TestServer::Start() {
  server_ = std::make_unique<server::Server>(options);
  if (const absl::Status status = server_->Start(); !status.ok()) return status;
  options.listen = server_->address();
  if (!options.metrics_listen.empty()) options.metrics_listen = server_->metrics_address();
  const absl::StatusOr<ConnectionConfig> admin = ReadConnectionConfig(StatePath("bootstrap"));
  const absl::StatusOr<ConnectionConfig> worker = ReadConnectionConfig(StatePath("worker-join"));
  if (!admin.ok()) return admin.status();
  if (!worker.ok()) return worker.status();
  admin_ = *admin;
  worker_ = *worker;
  return absl::OkStatus();
}

void TestServer::Stop() { server_ = nullptr; }

absl::Status TestServer::Restart() {
  Stop();
  return Start();
}

std::shared_ptr<grpc::Channel> TestServer::NewChannel() const {
  static std::atomic<int> number = 0;
  return MakeChannel(admin_, 0, absl::StrCat("test ", ++number));
}

ham::v1::JobSpec SmallSpec(int world_size) {
  ham::v1::JobSpec spec;
  spec.mutable_train()->mutable_data()->set_name("fashion-mnist");
  spec.mutable_train()->mutable_resources()->set_world_size(world_size);
  return spec;
}

ham::v1::CreateJobRequest SmallRequest(int world_size) {
  ham::v1::CreateJobRequest request;
  request.set_parent("projects/default");
  *request.mutable_spec() = SmallSpec(world_size);
  return request;
}

std::string Metadata(const absl::Status& status, const std::string& key) {
  google::rpc::ErrorInfo info;
  const auto payload = status.GetPayload("type.googleapis.com/google.rpc.ErrorInfo");
  if (!payload || !info.ParseFromString(std::string(*payload))) return "";
  const auto found = info.metadata().find(key);
  return found == info.metadata().end() ? "" : found->second;
}

// ---- Client ------------------------------------------------------------------------------------------------

Client::Client(const TestServer& server)
    : config_(server.admin()),
      jobs_(ham::v1::JobService::NewStub(server.NewChannel())),
      cluster_(ham::v1::ClusterService::NewStub(server.NewChannel())) {}

absl::StatusOr<Job> Client::Create(const ham::v1::CreateJobRequest& request) {
  return Call(jobs(), &ham::v1::JobService::Stub::CreateJob, request, config_);
}

std::string Client::MustCreate(int world_size) {
  const absl::StatusOr<Job> job = Create(SmallRequest(world_size));
  EXPECT_TRUE(job.ok()) << job.status();
  return job.ok() ? job->name() : "";
}

absl::StatusOr<Job> Client::Get(const std::string& name) {
  ham::v1::GetJobRequest request;
  request.set_name(name);
  return Call(jobs(), &ham::v1::JobService::Stub::GetJob, request, config_);
}

absl::StatusOr<Job> Client::Cancel(const std::string& name) {
  ham::v1::CancelJobRequest request;
  request.set_name(name);
  return Call(jobs(), &ham::v1::JobService::Stub::CancelJob, request, config_);
}

absl::StatusOr<ham::v1::ListJobsResponse> Client::List(const ham::v1::ListJobsRequest& request) {
  return Call(jobs(), &ham::v1::JobService::Stub::ListJobs, request, config_);
}

std::vector<ham::v1::Worker> Client::Workers() {
  const absl::StatusOr<ham::v1::ListWorkersResponse> response =
      Call(cluster(), &ham::v1::ClusterService::Stub::ListWorkers, ham::v1::ListWorkersRequest(), config_);
  EXPECT_TRUE(response.ok()) << response.status();
  if (!response.ok()) return {};
  return {response->workers().begin(), response->workers().end()};
}

absl::StatusOr<Job> Client::WaitForState(const std::string& name, Job::State state) {
  ham::v1::WatchJobRequest request;
  request.set_name(name);
  request.set_follow(true);
  request.add_kinds(ham::v1::EVENT);
  Watch watch(this, request);
  Job last;
  while (const std::optional<ham::v1::WatchJobResponse> response = watch.Next()) {
    if (!response->has_job()) continue;
    last = response->job();
    if (last.state() == state) return last;
  }
  return absl::DeadlineExceededError(absl::StrCat(name, " is ", Job::State_Name(last.state()), ", ",
                                                  last.state_reason(), ", not ", Job::State_Name(state), ": ",
                                                  std::string(watch.End().message())));
}

std::vector<ham::v1::JobRecord> Client::Log(const std::string& name) {
  ham::v1::WatchJobRequest request;
  request.set_name(name);
  Watch watch(this, request);
  const absl::Status end = watch.End();
  EXPECT_TRUE(end.ok()) << end;
  return watch.records();
}

// ---- Watch -------------------------------------------------------------------------------------------------

Watch::Watch(Client* client, const ham::v1::WatchJobRequest& request) {
  SetBound(&context_);
  SetToken(client->config(), &context_);
  reader_ = client->jobs()->WatchJob(&context_, request);
}

Watch::~Watch() {
  context_.TryCancel();
  if (!end_) End().IgnoreError();
}

std::optional<ham::v1::WatchJobResponse> Watch::Next() {
  if (end_) return std::nullopt;
  ham::v1::WatchJobResponse response;
  if (!reader_->Read(&response)) {
    end_ = FromGrpc(reader_->Finish());
    return std::nullopt;
  }
  records_.insert(records_.end(), response.records().begin(), response.records().end());
  if (!response.token().empty()) token_ = response.token();
  return response;
}

absl::Status Watch::End() {
  while (Next()) {
  }
  return *end_;
}

// ---- raw calls ---------------------------------------------------------------------------------------------

namespace {

grpc::ByteBuffer ToBuffer(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

std::string ToString(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (!buffer.Dump(&slices).ok()) return bytes;
  for (const grpc::Slice& slice : slices) bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return bytes;
}

}  // namespace

RawAnswer RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method, const std::string& request,
                  const ConnectionConfig* config) {
  grpc::GenericStub stub(channel);
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  SetBound(&context);
  if (config != nullptr) SetToken(*config, &context);
  const auto done = [&queue] {  // one operation is outstanding at a time; the deadline bounds it
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  RawAnswer answer;
  int tag = 0;
  const auto stream = stub.PrepareCall(&context, method, &queue);
  stream->StartCall(&tag);
  if (done()) {
    stream->Write(ToBuffer(request), &tag);
    if (done()) {
      stream->WritesDone(&tag);
      done();
    }
  }
  while (true) {
    grpc::ByteBuffer buffer;
    stream->Read(&buffer, &tag);
    if (!done()) break;
    answer.messages.push_back(ToString(buffer));
  }
  grpc::Status status;
  stream->Finish(&status, &tag);
  done();
  queue.Shutdown();
  answer.status = FromGrpc(status);
  return answer;
}

bool Eventually(const std::function<bool()>& condition) {
  absl::Mutex mutex;
  absl::CondVar never;
  const absl::Time end = absl::Now() + absl::FromChrono(kBound);
  while (!condition()) {
    if (absl::Now() > end) return false;
    absl::MutexLock lock(&mutex);
    never.WaitWithTimeout(&mutex, absl::Milliseconds(2));
  }
  return true;
}

}  // namespace ham::testing
