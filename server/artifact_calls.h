// How services take and give artifacts, in chunks. Calls block their thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/support/sync_stream.h"
#include "proto/sha256.h"
#include "server/artifact_store.h"

namespace ham::server {

inline constexpr size_t kChunkBytes = 1 << 20;

// An artifact that comes in. `artifacts` outlives it. One thread at a time.
class ArtifactUpload {
 public:
  ArtifactUpload(ArtifactStore* artifacts, std::string digest, int64_t size, int64_t most)
      : artifacts_(artifacts), digest_(std::move(digest)), size_(size), most_(most) {}

  // ArtifactStore::Put of a chunk. INVALID_ARGUMENT for one that is too large or does not lie within the artifact, and
  // for an artifact of more than `most` bytes.
  absl::Status Put(int64_t offset, std::string_view data) const;
  // The same for a sender that begins at 0 whatever is held: that is passed over. ABORTED when it is gone, because
  // another upload of the artifact failed.
  absl::Status PutWhatIsMissing(int64_t offset, std::string_view data) const;
  // ArtifactStore::Commit.
  absl::Status Commit() const { return artifacts_->Commit(digest_, size_); }

 private:
  absl::Status CheckBounds(int64_t offset, std::string_view data) const;

  ArtifactStore* const artifacts_;
  const std::string digest_;
  const int64_t size_;
  const int64_t most_;
};

// An artifact that goes out, from `offset` on. `artifacts` outlives it. One thread at a time.
class ArtifactDownload {
 public:
  ArtifactDownload(ArtifactStore* artifacts, std::string digest, int64_t offset)
      : artifacts_(artifacts), digest_(std::move(digest)), offset_(offset) {}

  // The next chunk; empty once all are out and were the right ones. NOT_FOUND; DATA_LOSS for a damaged artifact, which
  // is set aside then.
  absl::StatusOr<std::string> Next();

 private:
  absl::Status Damage() const;

  ArtifactStore* const artifacts_;
  const std::string digest_;
  const int64_t offset_;
  int64_t read_ = 0;
  Sha256 sha256_;  // of all bytes, also those before `offset_`
};

// Response: has `data`. Errors of ArtifactDownload; CANCELLED when the reader goes away.
template <class Response>
absl::Status SendArtifact(ArtifactStore* artifacts, const std::string& digest, int64_t offset,
                          grpc::ServerWriter<Response>* writer) {
  ArtifactDownload download(artifacts, digest, offset);
  Response response;
  while (true) {
    absl::StatusOr<std::string> data = download.Next();
    if (!data.ok()) return data.status();
    if (data->empty()) return absl::OkStatus();
    response.set_data(*std::move(data));
    if (!writer->Write(response)) return absl::CancelledError("the reader went away");
  }
}

}  // namespace ham::server
