#include "server/worker_service.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/log.h"
#include "proto/rpc_status.h"
#include "proto/utf8.h"
#include "server/artifact_calls.h"
#include "server/checkpoint_manifest.h"
#include "server/loop_calls.h"
#include "server/worker_streams.h"

namespace ham::server {
namespace {

// A unary call that answers later. It stays alive until Finish, which is called once.
class Answering : public grpc::ServerUnaryReactor {
 public:
  void OnDone() override { delete this; }
};

grpc::ServerUnaryReactor* Refuse(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

// GetRendezvousKey: ends with the key, the attempt, or the call.
class KeyWaiter final : public grpc::ServerUnaryReactor {
 public:
  KeyWaiter(const ServiceParts& parts, const ham::v1::GetRendezvousKeyRequest* request,
            ham::v1::GetRendezvousKeyResponse* response)
      : state_(std::make_shared<State>()) {
    // On the loop's thread, so that an attempt cannot end between the check and the wait.
    parts.loop->Inspect([this, parts, request, response,
                         state = state_](const absl::StatusOr<CoordinatorLoop::View>& view) {
      absl::Status status = view.ok() ? view->CheckActive(request->fence()) : view.status();
      if (!status.ok()) return Finish(ToGrpc(status));
      const uint64_t waiter = parts.rendezvous->Get(request->fence().job(), request->fence().attempt(), request->key(),
                                                    [this, response](absl::StatusOr<std::string> value) {
                                                      if (value.ok()) response->set_value(*std::move(value));
                                                      Finish(ToGrpc(value.status()));
                                                    });
      // The call may be over by now, and this with it.
      bool cancelled = false;
      {
        absl::MutexLock lock(&state->mutex);
        state->waiter = waiter;
        state->table = parts.rendezvous;
        cancelled = state->cancelled;
      }
      if (cancelled && waiter != 0) parts.rendezvous->Cancel(waiter);
    });
  }

  void OnCancel() override {
    uint64_t waiter = 0;
    RendezvousTable* table = nullptr;
    {
      absl::MutexLock lock(&state_->mutex);
      state_->cancelled = true;
      waiter = state_->waiter;
      table = state_->table;
    }
    if (waiter != 0) table->Cancel(waiter);
  }
  void OnDone() override { delete this; }

 private:
  struct State {
    absl::Mutex mutex;
    uint64_t waiter ABSL_GUARDED_BY(mutex) = 0;
    RendezvousTable* table ABSL_GUARDED_BY(mutex) = nullptr;
    bool cancelled ABSL_GUARDED_BY(mutex) = false;
  };
  const std::shared_ptr<State> state_;
};

}  // namespace

ControlReactor* WorkerServiceImpl::Control(grpc::CallbackServerContext* context) {
  const absl::StatusOr<Principal> principal = parts_.authenticator->Authorize(*context, Role::kWorker);
  return principal.ok() ? NewControlStream(parts_.loop, parts_.streams) : RefuseControl(principal.status());
}

ReportReactor* WorkerServiceImpl::Report(grpc::CallbackServerContext* context) {
  const absl::StatusOr<Principal> principal = parts_.authenticator->Authorize(*context, Role::kWorker);
  return principal.ok() ? NewReportStream(parts_.loop, parts_.streams) : RefuseReport(principal.status());
}

grpc::ServerUnaryReactor* WorkerServiceImpl::SetRendezvousKey(grpc::CallbackServerContext* context,
                                                              const ham::v1::SetRendezvousKeyRequest* request,
                                                              ham::v1::SetRendezvousKeyResponse*) {
  const absl::StatusOr<Principal> principal = parts_.authenticator->Authorize(*context, Role::kWorker);
  if (!principal.ok()) return Refuse(context, principal.status());
  auto* reactor = new Answering;
  parts_.loop->Inspect([this, reactor, request](const absl::StatusOr<CoordinatorLoop::View>& view) {
    absl::Status status = view.ok() ? view->CheckActive(request->fence()) : view.status();
    if (status.ok()) {
      status =
          parts_.rendezvous->Set(request->fence().job(), request->fence().attempt(), request->key(), request->value());
    }
    reactor->Finish(ToGrpc(status));
  });
  return reactor;
}

grpc::ServerUnaryReactor* WorkerServiceImpl::GetRendezvousKey(grpc::CallbackServerContext* context,
                                                              const ham::v1::GetRendezvousKeyRequest* request,
                                                              ham::v1::GetRendezvousKeyResponse* response) {
  const absl::StatusOr<Principal> principal = parts_.authenticator->Authorize(*context, Role::kWorker);
  if (!principal.ok()) return Refuse(context, principal.status());
  return new KeyWaiter(parts_, request, response);
}

absl::Status WorkerServiceImpl::CheckFence(const ham::v1::Fence& fence) const {
  return ReadAndWait(parts_.loop, [&](const CoordinatorLoop::View& view) { return view.CheckFence(fence); });
}

grpc::Status WorkerServiceImpl::QueryArtifact(grpc::ServerContext* context,
                                              const ham::v1::QueryArtifactRequest* request,
                                              ham::v1::QueryArtifactResponse* response) {
  const absl::StatusOr<Principal> principal = parts_.authenticator->Authorize(*context, Role::kWorker);
  if (!principal.ok()) return ToGrpc(principal.status());
  const absl::StatusOr<ArtifactStore::Held> held = parts_.artifacts->Query(request->digest());
  if (!held.ok()) return ToGrpc(held.status());
  response->set_complete(held->complete);
  response->set_offset(held->offset);
  return grpc::Status::OK;
}

absl::Status WorkerServiceImpl::Upload(grpc::ServerReader<ham::v1::UploadArtifactRequest>* reader) {
  ham::v1::UploadArtifactRequest chunk;
  if (!reader->Read(&chunk)) return absl::InvalidArgumentError("an upload begins with fence, digest and size");
  if (const absl::Status status = CheckFence(chunk.fence()); !status.ok()) return status;
  const int64_t size = chunk.size();
  const ArtifactUpload upload(parts_.artifacts, chunk.digest(), size, limits_.artifact_bytes);
  do {
    const absl::Status status = upload.Put(chunk.offset(), chunk.data());
    // The worker has all of it and found more held than that: only dropping what is held helps.
    if (absl::IsOutOfRange(status) && chunk.offset() == size) break;
    if (!status.ok()) return status;
  } while (reader->Read(&chunk));
  return upload.Commit();
}

grpc::Status WorkerServiceImpl::UploadArtifact(grpc::ServerContext* context,
                                               grpc::ServerReader<ham::v1::UploadArtifactRequest>* reader,
                                               ham::v1::UploadArtifactResponse*) {
  const absl::StatusOr<Principal> principal = parts_.authenticator->Authorize(*context, Role::kWorker);
  if (!principal.ok()) return ToGrpc(principal.status());
  if (const absl::Status status = Upload(reader); !status.ok()) {
    // A broken stream is no artifact that is too short: what came is kept for the next try.
    return ToGrpc(context->IsCancelled() ? absl::CancelledError("the upload was cut off") : status);
  }
  return grpc::Status::OK;
}

// A worker may read what its assignment names: a manifest and the files in it, or the weights to evaluate.
absl::Status WorkerServiceImpl::CheckMayRead(const std::string& digest, const JobRow& row) {
  if (row.pool) {
    const absl::StatusOr<JobContent> content = parts_.store->GetContent(row.name);
    if (!content.ok()) return content.status();
    if (digest == content->spec.evaluate().weights()) return absl::OkStatus();
  } else {
    const std::string manifest = row.checkpoint ? row.checkpoint->manifest_digest() : "";
    if (digest == manifest) return absl::OkStatus();
    const absl::StatusOr<CheckpointManifest> files = ReadCheckpointManifest(parts_.artifacts, manifest);
    if (files.ok() && files->files.count(digest) > 0) return absl::OkStatus();
  }
  return absl::PermissionDeniedError(absl::StrCat("artifact ", Shown(digest, 64), " is no part of ",
                                                  row.pool ? "what is evaluated by " : "the checkpoint of ", row.name));
}

absl::Status WorkerServiceImpl::Download(const ham::v1::DownloadArtifactRequest& request,
                                         grpc::ServerWriter<ham::v1::DownloadArtifactResponse>* writer) {
  JobRow row;
  absl::Status status = ReadAndWait(parts_.loop, [&](const CoordinatorLoop::View& view) {
    const absl::Status current = view.CheckFence(request.fence());
    const JobRow* found = current.ok() ? view.core().FindJob(request.fence().job()) : nullptr;
    if (found != nullptr) row = *found;
    return current;
  });
  if (status.ok()) status = CheckMayRead(request.digest(), row);
  if (!status.ok()) return status;
  status = SendArtifact(parts_.artifacts, request.digest(), request.offset(), writer);
  if (absl::IsDataLoss(status) || absl::IsNotFound(status)) return NoteLost(row, status);
  return status;
}

// Only then the worker learns of it: its job knows already where to go on.
absl::Status WorkerServiceImpl::NoteLost(const JobRow& row, const absl::Status& problem) {
  const std::string text(problem.message());
  Log(spdlog::level::err, {.job = row.name}, absl::StrCat(row.name, " cannot have what it needs: ", text));
  parts_.collector->NoteDamage();
  const absl::Status noted =
      row.pool ? ApplyAndWait(parts_.loop, JobBroken{row.name, absl::StrCat("Its weights cannot be read: ", text,
                                                                            "; submit it again with --weights.")})
               : ApplyAndWait(parts_.loop, CheckpointDamaged{row.name, row.checkpoint->manifest_digest(), text});
  return noted.ok() ? absl::DataLossError(text) : noted;
}

grpc::Status WorkerServiceImpl::DownloadArtifact(grpc::ServerContext* context,
                                                 const ham::v1::DownloadArtifactRequest* request,
                                                 grpc::ServerWriter<ham::v1::DownloadArtifactResponse>* writer) {
  const absl::StatusOr<Principal> principal = parts_.authenticator->Authorize(*context, Role::kWorker);
  if (!principal.ok()) return ToGrpc(principal.status());
  if (request->offset() < 0) {
    return ToGrpc(absl::InvalidArgumentError(absl::StrCat("offset ", request->offset(), " must not be negative")));
  }
  return ToGrpc(Download(*request, writer));
}

// The checkpoint is whole: its manifest and all files that the manifest names are complete.
absl::Status WorkerServiceImpl::CheckArtifacts(const ham::v1::CommitCheckpointRequest& request) {
  const absl::StatusOr<CheckpointManifest> manifest =
      ReadCheckpointManifest(parts_.artifacts, request.manifest_digest());
  if (!manifest.ok()) return manifest.status();
  const std::set<std::string> named(request.artifact_digests().begin(), request.artifact_digests().end());
  if (named != manifest->files) {
    return absl::InvalidArgumentError("artifact_digests must name exactly the files of the manifest");
  }
  if (manifest->iteration != request.iteration() || manifest->epoch != request.epoch()) {
    return absl::InvalidArgumentError(absl::StrCat("iteration ", request.iteration(), ", epoch ", request.epoch(),
                                                   " are not those of the manifest (", manifest->iteration, ", ",
                                                   manifest->epoch, ")"));
  }
  if (manifest->files.empty()) return absl::InvalidArgumentError("a checkpoint without files is none");
  for (const std::string& digest : manifest->files) {
    const absl::StatusOr<ArtifactStore::Held> held = parts_.artifacts->Query(digest);
    if (!held.ok()) return held.status();
    if (!held->complete) {
      return absl::FailedPreconditionError(absl::StrCat("artifact ", digest, " is not here: upload it first"));
    }
  }
  return absl::OkStatus();
}

grpc::Status WorkerServiceImpl::CommitCheckpoint(grpc::ServerContext* context,
                                                 const ham::v1::CommitCheckpointRequest* request,
                                                 ham::v1::CommitCheckpointResponse*) {
  const absl::StatusOr<Principal> principal = parts_.authenticator->Authorize(*context, Role::kWorker);
  if (!principal.ok()) return ToGrpc(principal.status());
  absl::Status status = CheckFence(request->fence());
  if (status.ok()) status = CheckArtifacts(*request);
  if (!status.ok()) return ToGrpc(status);
  CheckpointCommitted event{request->fence().session(), request->fence().job(), {}};
  event.checkpoint.set_attempt(request->fence().attempt());
  event.checkpoint.set_iteration(request->iteration());
  event.checkpoint.set_epoch(request->epoch());
  event.checkpoint.set_manifest_digest(request->manifest_digest());
  status = ApplyAndWait(parts_.loop, std::move(event));
  if (status.ok()) {
    std::set<std::string> named(request->artifact_digests().begin(), request->artifact_digests().end());
    named.insert(request->manifest_digest());
    parts_.collector->NoteNamed(named);
  }
  return ToGrpc(status);
}

}  // namespace ham::server
