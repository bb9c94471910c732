#include "tests/agent/scripted_coordinator.h"

#include <chrono>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/server_builder.h"
#include "proto/rpc_status.h"

namespace ham::testing {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);

std::unique_ptr<ham::server::ArtifactStore> OpenStore(const std::string& directory) {
  auto store = ham::server::OpenArtifactDirectory(directory);
  if (!store.ok()) std::abort();
  return *std::move(store);
}

}  // namespace

ScriptedCoordinator::ScriptedCoordinator(const std::string& artifacts) : artifacts_(OpenStore(artifacts)) {
  script_.welcome.set_cluster_id("cluster");
  script_.welcome.set_term(1);
  script_.welcome.set_session(1);
  script_.welcome.mutable_heartbeat_interval()->set_nanos(50'000'000);
}

void ScriptedCoordinator::Start() {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(absl::StrCat("127.0.0.1:", port_), grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) std::abort();
}

void ScriptedCoordinator::Stop() {
  if (server_ == nullptr) return;
  server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
}

ConnectionConfig ScriptedCoordinator::connection() const { return {{absl::StrCat("127.0.0.1:", port_)}, "", "secret"}; }

void ScriptedCoordinator::Change(const std::function<void(Script*)>& change) {
  absl::MutexLock lock(&mutex_);
  change(&script_);
}

ScriptedCoordinator::Script ScriptedCoordinator::script() {
  absl::MutexLock lock(&mutex_);
  return script_;
}

void ScriptedCoordinator::Desire(const std::vector<ham::v1::Assignment>& assignments) {
  absl::MutexLock lock(&mutex_);
  desired_.set_version(desired_.version() + 1);
  desired_.clear_assignments();
  for (const ham::v1::Assignment& assignment : assignments) *desired_.add_assignments() = assignment;
  ham::v1::CoordinatorMessage message;
  *message.mutable_desired() = desired_;
  if (stream_ != nullptr) stream_->Write(message);
}

void ScriptedCoordinator::Disconnect() {
  absl::MutexLock lock(&mutex_);
  if (context_ != nullptr) context_->TryCancel();
}

bool ScriptedCoordinator::Await(const std::function<bool(const Seen&)>& holds) {
  absl::MutexLock lock(&mutex_);
  const auto now = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return holds(seen_); };
  return mutex_.AwaitWithTimeout(absl::Condition(&now), kPatience);
}

ScriptedCoordinator::Seen ScriptedCoordinator::seen() {
  absl::MutexLock lock(&mutex_);
  return seen_;
}

grpc::Status ScriptedCoordinator::Control(
    grpc::ServerContext* context,
    grpc::ServerReaderWriter<ham::v1::CoordinatorMessage, ham::v1::AgentMessage>* stream) {
  ham::v1::AgentMessage message;
  if (!stream->Read(&message) || !message.has_register_()) {
    return {grpc::StatusCode::INVALID_ARGUMENT, "a stream begins with register"};
  }
  {
    absl::MutexLock lock(&mutex_);
    seen_.registration = message.register_();
    ++seen_.registrations;
    const auto speaks = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !script_.silent; };
    while (!mutex_.AwaitWithTimeout(absl::Condition(&speaks), absl::Milliseconds(20))) {
      if (context->IsCancelled()) return grpc::Status::CANCELLED;
    }
    if (!script_.refusal.ok()) return script_.refusal;
    seen_.observed.assign(message.register_().observed().begin(), message.register_().observed().end());
    ++seen_.welcomes;
    context_ = context;
    stream_ = stream;
    ham::v1::CoordinatorMessage answer;
    *answer.mutable_welcome() = script_.welcome;
    stream->Write(answer);
    *answer.mutable_desired() = desired_;
    stream->Write(answer);
  }
  while (stream->Read(&message)) {
    absl::MutexLock lock(&mutex_);
    if (message.has_beat()) {
      seen_.observed.assign(message.beat().observed().begin(), message.beat().observed().end());
      seen_.leaving = message.beat().leaving();
      seen_.gpus.assign(message.beat().gpus().begin(), message.beat().gpus().end());
      seen_.problems.assign(message.beat().problems().begin(), message.beat().problems().end());
    }
  }
  absl::MutexLock lock(&mutex_);
  if (context_ == context) {
    context_ = nullptr;
    stream_ = nullptr;
  }
  return grpc::Status::OK;
}

grpc::Status ScriptedCoordinator::Report(
    grpc::ServerContext*, grpc::ServerReaderWriter<ham::v1::ReportResponse, ham::v1::ReportRequest>* stream) {
  ham::v1::ReportRequest request;
  while (stream->Read(&request)) {
    ham::v1::ReportResponse response;
    response.set_job(request.fence().job());
    response.set_attempt(request.fence().attempt());
    response.set_rank(request.rank());
    {
      absl::MutexLock lock(&mutex_);
      if (script_.fenced) {
        response.set_fenced(true);
      } else {
        auto& held = seen_.records[{response.job(), response.attempt(), response.rank()}];
        for (const ham::v1::SpooledRecord& record : request.records()) {
          if (!held.empty() && record.spool_sequence() <= held.back().spool_sequence()) {
            ++seen_.repeated_records;
          } else {
            held.push_back(record);
          }
        }
        if (script_.answers_to_lose > 0) {
          --script_.answers_to_lose;
          return {grpc::StatusCode::UNAVAILABLE, "the answer got lost"};
        }
        response.set_acknowledged_sequence(held.empty() ? 0 : held.back().spool_sequence());
      }
    }
    stream->Write(response);
  }
  return grpc::Status::OK;
}

grpc::Status ScriptedCoordinator::SetRendezvousKey(grpc::ServerContext*,
                                                   const ham::v1::SetRendezvousKeyRequest* request,
                                                   ham::v1::SetRendezvousKeyResponse*) {
  absl::MutexLock lock(&mutex_);
  keys_[absl::StrCat(request->fence().job(), " ", request->key())] = request->value();
  return grpc::Status::OK;
}

grpc::Status ScriptedCoordinator::GetRendezvousKey(grpc::ServerContext* context,
                                                   const ham::v1::GetRendezvousKeyRequest* request,
                                                   ham::v1::GetRendezvousKeyResponse* response) {
  const std::string key = absl::StrCat(request->fence().job(), " ", request->key());
  absl::MutexLock lock(&mutex_);
  const auto set = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return keys_.count(key) != 0; };
  while (!context->IsCancelled()) {
    if (!mutex_.AwaitWithTimeout(absl::Condition(&set), absl::Milliseconds(20))) continue;
    response->set_value(keys_[key]);
    return grpc::Status::OK;
  }
  return grpc::Status::CANCELLED;
}

grpc::Status ScriptedCoordinator::QueryArtifact(grpc::ServerContext*, const ham::v1::QueryArtifactRequest* request,
                                                ham::v1::QueryArtifactResponse* response) {
  if (const auto hook = script().on_query; hook) hook();
  const absl::StatusOr<ham::server::ArtifactStore::Held> held = artifacts_->Query(request->digest());
  if (!held.ok()) return ToGrpc(held.status());
  response->set_complete(held->complete);
  response->set_offset(held->offset);
  return grpc::Status::OK;
}

// As the coordinator's service does it, with room for faults.
grpc::Status ScriptedCoordinator::UploadArtifact(grpc::ServerContext* context,
                                                 grpc::ServerReader<ham::v1::UploadArtifactRequest>* reader,
                                                 ham::v1::UploadArtifactResponse*) {
  ham::v1::UploadArtifactRequest chunk;
  if (!reader->Read(&chunk)) return {grpc::StatusCode::INVALID_ARGUMENT, "an upload begins with its digest"};
  const std::string digest = chunk.digest();
  const int64_t size = chunk.size();
  do {
    if (const auto hook = script().on_chunk; hook) {
      if (grpc::Status status = hook(chunk); !status.ok()) return status;
    }
    const absl::Status status = artifacts_->Put(digest, chunk.offset(), chunk.data());
    if (absl::IsOutOfRange(status) && chunk.offset() == size) return ToGrpc(artifacts_->Commit(digest, size));
    if (!status.ok()) return ToGrpc(status);
    absl::MutexLock lock(&mutex_);
    seen_.uploaded_bytes += static_cast<int64_t>(chunk.data().size());
  } while (reader->Read(&chunk));
  return context->IsCancelled() ? grpc::Status::CANCELLED : ToGrpc(artifacts_->Commit(digest, size));
}

grpc::Status ScriptedCoordinator::DownloadArtifact(grpc::ServerContext*,
                                                   const ham::v1::DownloadArtifactRequest* request,
                                                   grpc::ServerWriter<ham::v1::DownloadArtifactResponse>* writer) {
  {
    absl::MutexLock lock(&mutex_);
    seen_.download_offsets.push_back(request->offset());
  }
  for (int64_t offset = request->offset();;) {
    absl::StatusOr<std::string> data = artifacts_->Read(request->digest(), offset, 1 << 20);
    if (!data.ok()) return ToGrpc(data.status());
    if (data->empty()) return grpc::Status::OK;
    offset += static_cast<int64_t>(data->size());
    ham::v1::DownloadArtifactResponse response;
    response.set_data(*std::move(data));
    if (const auto hook = script().on_download; hook) {
      if (grpc::Status status = hook(&response); !status.ok()) return status;
    }
    if (!writer->Write(response)) return grpc::Status::CANCELLED;
  }
}

grpc::Status ScriptedCoordinator::CommitCheckpoint(grpc::ServerContext*,
                                                   const ham::v1::CommitCheckpointRequest* request,
                                                   ham::v1::CommitCheckpointResponse*) {
  absl::MutexLock lock(&mutex_);
  seen_.commits.push_back(*request);
  return grpc::Status::OK;
}

}  // namespace ham::testing
