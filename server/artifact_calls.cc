#include "server/artifact_calls.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace ham::server {

absl::Status ArtifactUpload::CheckBounds(int64_t offset, std::string_view data) const {
  if (size_ < 0 || size_ > most_) {
    return absl::InvalidArgumentError(absl::StrCat("an artifact of ", size_, " bytes: 0 to ", most_, " are allowed"));
  }
  if (data.size() > kChunkBytes || offset < 0 || offset > size_ - static_cast<int64_t>(data.size())) {
    return absl::InvalidArgumentError(absl::StrCat("a chunk of ", data.size(), " bytes at ", offset,
                                                   ": chunks have at most ", kChunkBytes,
                                                   " bytes and lie within the artifact"));
  }
  return absl::OkStatus();
}

absl::Status ArtifactUpload::Put(int64_t offset, std::string_view data) const {
  const absl::Status status = CheckBounds(offset, data);
  return status.ok() ? artifacts_->Put(digest_, offset, data) : status;
}

absl::Status ArtifactUpload::PutWhatIsMissing(int64_t offset, std::string_view data) const {
  if (const absl::Status status = CheckBounds(offset, data); !status.ok()) return status;
  for (;;) {
    const absl::StatusOr<ArtifactStore::Held> held = artifacts_->Query(digest_);
    if (!held.ok()) return held.status();
    if (held->offset > offset) {
      const auto passed = static_cast<size_t>(std::min<int64_t>(held->offset - offset, data.size()));
      data.remove_prefix(passed);
      offset += static_cast<int64_t>(passed);
      if (data.empty()) return absl::OkStatus();
    }
    const absl::Status status = artifacts_->Put(digest_, offset, data);
    if (!absl::IsOutOfRange(status)) return status;
    if (held->offset < offset) {
      return absl::AbortedError(
          absl::StrCat("another upload of artifact ", digest_, " failed meanwhile: send it again from the start"));
    }
    // Another one was quicker: the store holds more than it did.
  }
}

absl::StatusOr<std::string> ArtifactDownload::Next() {
  while (true) {
    absl::StatusOr<std::string> data = artifacts_->Read(digest_, read_, kChunkBytes);
    if (absl::IsDataLoss(data.status())) return Damage();
    if (!data.ok()) return data.status();
    if (data->empty()) break;
    sha256_.Update(*data);
    const int64_t begin = read_;
    read_ += static_cast<int64_t>(data->size());
    if (read_ <= offset_) continue;
    if (begin < offset_) data->erase(0, static_cast<size_t>(offset_ - begin));
    return data;
  }
  if (sha256_.Hex() == digest_) return "";
  return Damage();
}

absl::Status ArtifactDownload::Damage() const {
  const absl::Status status = artifacts_->Verify(digest_);
  if (!status.ok()) return status;
  return absl::UnavailableError(absl::StrCat("artifact ", digest_, " was read wrongly once: ask again"));
}

}  // namespace ham::server
