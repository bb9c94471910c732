#include "worker/agent/artifact_transfer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/rpc_status.h"
#include "proto/sha256.h"
#include "proto/strict_json.h"
#include "proto/worker_rules.h"

namespace ham::agent {
namespace {

namespace fs = std::filesystem;

constexpr char kManifestName[] = "manifest.json";
constexpr size_t kChunkBytes = 1 << 20;
constexpr int kMostSends = 8;  // of one file, before the caller waits for better times
constexpr absl::Duration kCallTimeout = absl::Minutes(1);

// One call, known to CallCancel as long as it lives.
class Call {
 public:
  explicit Call(const TransferPeer& peer) : peer_(peer), entered_(peer.cancel->Enter(&context_)) {
    SetToken(*peer.config, &context_);
  }
  ~Call() {
    if (entered_) peer_.cancel->Leave(&context_);
  }
  absl::Status status() const { return entered_ ? absl::OkStatus() : absl::CancelledError("the transfer was stopped"); }
  grpc::ClientContext* context() { return &context_; }
  void SetTimeout(absl::Duration timeout) { context_.set_deadline(absl::ToChronoTime(absl::Now() + timeout)); }
  absl::Status Result(const grpc::Status& result) const {
    return peer_.cancel->cancelled() ? absl::CancelledError("the transfer was stopped") : FromGrpc(result);
  }

 private:
  const TransferPeer& peer_;
  grpc::ClientContext context_;
  const bool entered_;
};

struct File {
  std::string name;
  std::string digest;
  int64_t bytes = 0;
};

absl::StatusOr<std::vector<File>> ParseManifest(const std::string& text) {
  const absl::Status wrong = absl::InvalidArgumentError("the checkpoint's manifest is not one that a trainer writes");
  const absl::StatusOr<nlohmann::json> json = ParseStrictJson(text);
  if (!json.ok() || !json->is_object() || !json->contains("files") || !json->at("files").is_array()) return wrong;
  std::vector<File> files;
  std::set<std::string> names = {kManifestName};
  for (const nlohmann::json& entry : json->at("files")) {
    if (!entry.is_object() || !entry.contains("name") || !entry.contains("sha256") || !entry.contains("bytes") ||
        !entry.at("name").is_string() || !entry.at("sha256").is_string() || !entry.at("bytes").is_number_integer()) {
      return wrong;
    }
    File file{entry.at("name").get<std::string>(), entry.at("sha256").get<std::string>(),
              entry.at("bytes").get<int64_t>()};
    // Names become paths: within the folder, one file each.
    if (file.name.empty() || file.name[0] == '.' || file.name.find('/') != std::string::npos || file.bytes < 0 ||
        !IsSha256Hex(file.digest) || !names.insert(file.name).second) {
      return wrong;
    }
    files.push_back(std::move(file));
  }
  return files;
}

absl::StatusOr<std::string> ReadSmall(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  std::string text(kMostManifestBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMostManifestBytes) return absl::InvalidArgumentError(absl::StrCat(path, " is too long"));
  return text;
}

absl::StatusOr<std::string> DigestOfFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  Sha256 digest;
  std::string buffer(kChunkBytes, '\0');
  while (file.read(buffer.data(), static_cast<std::streamsize>(buffer.size())), file.gcount() > 0) {
    digest.Update({buffer.data(), static_cast<size_t>(file.gcount())});
  }
  return digest.Hex();
}

// ---- up ----------------------------------------------------------------------------------------------------

absl::StatusOr<ham::v1::QueryArtifactResponse> Query(const TransferPeer& peer, const std::string& digest) {
  Call call(peer);
  if (!call.status().ok()) return call.status();
  call.SetTimeout(kCallTimeout);
  ham::v1::QueryArtifactRequest request;
  ham::v1::QueryArtifactResponse response;
  request.set_digest(digest);
  if (absl::Status status = call.Result(peer.stub->QueryArtifact(call.context(), request, &response)); !status.ok()) {
    return status;
  }
  return response;
}

absl::Status SendFile(const TransferPeer& peer, const std::string& path, const File& info) {
  const absl::StatusOr<ham::v1::QueryArtifactResponse> held = Query(peer, info.digest);
  if (!held.ok()) return held.status();
  if (held->complete()) return absl::OkStatus();
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  int64_t offset = std::min(held->offset(), info.bytes);
  file.seekg(offset);
  Call call(peer);
  if (!call.status().ok()) return call.status();
  ham::v1::UploadArtifactResponse response;
  const auto writer = peer.stub->UploadArtifact(call.context(), &response);
  ham::v1::UploadArtifactRequest request;
  *request.mutable_fence() = peer.fence;
  request.set_digest(info.digest);
  request.set_size(info.bytes);
  absl::Status local;
  // The first message goes out even if all bytes are there: it makes the store check and keep them.
  for (bool first = true; first || offset < info.bytes; first = false) {
    std::string* data = request.mutable_data();
    data->resize(static_cast<size_t>(std::min<int64_t>(kChunkBytes, info.bytes - offset)));
    file.read(data->data(), static_cast<std::streamsize>(data->size()));
    if (static_cast<size_t>(file.gcount()) != data->size()) {
      local = absl::DataLossError(absl::StrCat(path, " is shorter than its manifest says"));
      call.context()->TryCancel();
      break;
    }
    request.set_offset(offset);
    if (!writer->Write(request)) break;  // Finish says why
    offset += static_cast<int64_t>(data->size());
    request.clear_fence();
    request.clear_digest();
    request.clear_size();
  }
  writer->WritesDone();
  const grpc::Status result = writer->Finish();
  return local.ok() ? call.Result(result) : local;
}

// Another sender of the same bytes (a broken try of ours that the store still works at, an older attempt) may move the
// offset, and may have sent wrong ones: each goes on where the store is.
absl::Status UploadFile(const TransferPeer& peer, const std::string& path, const File& info) {
  absl::Status status;
  for (int i = 0; i < kMostSends; ++i) {
    status = SendFile(peer, path, info);
    if (absl::IsDataLoss(status)) {
      const absl::StatusOr<std::string> found = DigestOfFile(path);
      if (!found.ok()) return found.status();
      if (*found != info.digest) return absl::DataLossError(absl::StrCat(path, " is not what its manifest says"));
    } else if (!absl::IsOutOfRange(status)) {
      return status;
    }
  }
  return absl::UnavailableError(status.message());
}

absl::Status Commit(const TransferPeer& peer, const std::string& manifest_digest, const std::vector<File>& files,
                    int64_t iteration, int epoch) {
  Call call(peer);
  if (!call.status().ok()) return call.status();
  call.SetTimeout(kCallTimeout);
  ham::v1::CommitCheckpointRequest request;
  ham::v1::CommitCheckpointResponse response;
  *request.mutable_fence() = peer.fence;
  request.set_iteration(iteration);
  request.set_epoch(epoch);
  request.set_manifest_digest(manifest_digest);
  for (const File& file : files) request.add_artifact_digests(file.digest);
  return call.Result(peer.stub->CommitCheckpoint(call.context(), request, &response));
}

// ---- down --------------------------------------------------------------------------------------------------

// Not MayPass(): the rank ends, and another worker may do better.
absl::Status CannotWrite(const std::string& path, const std::string& why) {
  return absl::InternalError(absl::StrCat("cannot write ", path, ": ", why));
}

// Fetches bytes [size of the file, ...) of an artifact to the end of `path`.
absl::Status FetchRest(const TransferPeer& peer, const std::string& path, const std::string& digest, int64_t most) {
  std::error_code error;
  int64_t size = fs::exists(path, error) ? static_cast<int64_t>(fs::file_size(path, error)) : 0;
  std::ofstream file(path, std::ios::binary | std::ios::app);
  if (!file) return CannotWrite(path, std::strerror(errno));
  Call call(peer);
  if (!call.status().ok()) return call.status();
  ham::v1::DownloadArtifactRequest request;
  *request.mutable_fence() = peer.fence;
  request.set_digest(digest);
  request.set_offset(size);
  const auto reader = peer.stub->DownloadArtifact(call.context(), request);
  ham::v1::DownloadArtifactResponse response;
  absl::Status local;
  while (reader->Read(&response)) {
    size += static_cast<int64_t>(response.data().size());
    if (size > most) local = absl::DataLossError(absl::StrCat("artifact ", digest, " is longer than it should be"));
    if (local.ok() && !file.write(response.data().data(), static_cast<std::streamsize>(response.data().size()))) {
      local = CannotWrite(path, std::strerror(errno));
    }
    if (!local.ok()) {
      call.context()->TryCancel();
      break;
    }
  }
  const grpc::Status result = reader->Finish();
  if (!local.ok()) return local;
  file.close();
  if (!file) return CannotWrite(path, std::strerror(errno));
  return call.Result(result);
}

absl::Status DownloadFile(const TransferPeer& peer, const std::string& path, const std::string& digest, int64_t most) {
  std::error_code error;
  if (fs::exists(path, error)) return absl::OkStatus();  // renamed once it was checked
  const std::string part = path + ".part";
  if (absl::Status status = FetchRest(peer, part, digest, most); !status.ok()) {
    if (absl::IsDataLoss(status)) fs::remove(part, error);
    return status;
  }
  const absl::StatusOr<std::string> found = DigestOfFile(part);
  if (!found.ok()) return found.status();
  if (*found != digest) {
    fs::remove(part, error);
    return absl::DataLossError(absl::StrCat("artifact ", digest, " came with other bytes"));
  }
  fs::rename(part, path, error);
  return error ? CannotWrite(path, error.message()) : absl::OkStatus();
}

}  // namespace

bool MayPass(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsResourceExhausted(status);
}

absl::Status UploadCheckpoint(const TransferPeer& peer, const std::string& manifest, int64_t iteration, int epoch) {
  const absl::StatusOr<std::string> text = ReadSmall(manifest);
  if (!text.ok()) return text.status();
  const absl::StatusOr<std::vector<File>> files = ParseManifest(*text);
  if (!files.ok()) return files.status();
  const fs::path folder = fs::path(manifest).parent_path();
  for (const File& file : *files) {
    if (absl::Status status = UploadFile(peer, (folder / file.name).string(), file); !status.ok()) return status;
  }
  const File self{"", Sha256Hex(*text), static_cast<int64_t>(text->size())};
  if (absl::Status status = UploadFile(peer, manifest, self); !status.ok()) return status;
  return Commit(peer, self.digest, *files, iteration, epoch);
}

absl::StatusOr<std::string> DownloadCheckpoint(const TransferPeer& peer, const ham::v1::Checkpoint& checkpoint,
                                               const std::string& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) return CannotWrite(directory, error.message());
  const std::string manifest = directory + "/" + kManifestName;
  absl::Status status = DownloadFile(peer, manifest, checkpoint.manifest_digest(), kMostManifestBytes);
  if (!status.ok()) return status;
  const absl::StatusOr<std::string> text = ReadSmall(manifest);
  if (!text.ok()) return text.status();
  const absl::StatusOr<std::vector<File>> files = ParseManifest(*text);
  if (!files.ok()) return files.status();
  for (const File& file : *files) {
    if (status = DownloadFile(peer, directory + "/" + file.name, file.digest, file.bytes); !status.ok()) return status;
  }
  return manifest;
}

absl::Status DownloadWeights(const TransferPeer& peer, const std::string& digest, const std::string& path) {
  return DownloadFile(peer, path, digest, kMostWeightsBytes);
}

}  // namespace ham::agent
