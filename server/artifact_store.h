// Files by their SHA-256: checkpoints and their manifests.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ham::server {

// Any thread. `digest` is lower-case hex SHA-256; INVALID_ARGUMENT for anything else.
class ArtifactStore {
 public:
  struct Held {
    bool complete = false;
    int64_t offset = 0;  // bytes held of an unfinished upload
  };

  virtual ~ArtifactStore() = default;

  virtual absl::StatusOr<Held> Query(const std::string& digest) = 0;
  // Appends to the unfinished upload. OUT_OF_RANGE when it does not hold exactly `offset` bytes (another writes too, or
  // the last answer was lost: query again). OK without effect when the artifact is complete. RESOURCE_EXHAUSTED for a
  // full disk.
  virtual absl::Status Put(const std::string& digest, int64_t offset, std::string_view data) = 0;
  // Verifies size and digest, then makes it complete and durable. OUT_OF_RANGE when less than `size` is held; DATA_LOSS
  // on a mismatch: the upload is dropped.
  virtual absl::Status Commit(const std::string& digest, int64_t size) = 0;
  // Up to `most` bytes from `offset`; empty at the end. NOT_FOUND unless complete.
  virtual absl::StatusOr<std::string> Read(const std::string& digest, int64_t offset, size_t most) = 0;
};

// In a directory, made when missing: complete ones in ab/abcd..., unfinished ones in unfinished/, where they stay to
// be resumed.
absl::StatusOr<std::unique_ptr<ArtifactStore>> OpenArtifactDirectory(const std::string& directory);

}  // namespace ham::server
