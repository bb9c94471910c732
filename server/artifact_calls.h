// How services take and give artifacts, in chunks. Calls block their thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/support/sync_stream.h"
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

// Response: has `data`. ArtifactStore's errors; CANCELLED when the reader goes away.
template <class Response>
absl::Status SendArtifact(ArtifactStore* artifacts, const std::string& digest, int64_t offset,
                          grpc::ServerWriter<Response>* writer) {
  Response response;
  for (;; offset += static_cast<int64_t>(response.data().size())) {
    absl::StatusOr<std::string> data = artifacts->Read(digest, offset, kChunkBytes);
    if (!data.ok()) return data.status();
    if (data->empty()) return absl::OkStatus();
    response.set_data(*std::move(data));
    if (!writer->Write(response)) return absl::CancelledError("the reader went away");
  }
}

}  // namespace ham::server
