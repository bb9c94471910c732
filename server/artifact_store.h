// Files by their SHA-256: checkpoints and their manifests, weights, records of evaluations.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace ham::server {

// Any thread. `digest` is lower-case hex SHA-256; INVALID_ARGUMENT for anything else.
class ArtifactStore {
 public:
  struct Held {
    bool complete = false;
    int64_t offset = 0;  // bytes held of an unfinished upload
  };
  struct Item {
    std::string digest;
    bool complete = false;
    int64_t bytes = 0;
    absl::Time asked;  // when it was last written to, or asked for while complete
  };

  virtual ~ArtifactStore() = default;

  virtual absl::StatusOr<Held> Query(const std::string& digest) = 0;
  // Appends to the unfinished upload. OUT_OF_RANGE when it does not hold exactly `offset` bytes (another writes too, or
  // the last answer was lost: query again). OK without effect when the artifact is complete. RESOURCE_EXHAUSTED for a
  // full disk and at the quota.
  virtual absl::Status Put(const std::string& digest, int64_t offset, std::string_view data) = 0;
  // Verifies size and digest, then makes it complete and durable. OUT_OF_RANGE when less than `size` is held; DATA_LOSS
  // on a mismatch: the upload is dropped.
  virtual absl::Status Commit(const std::string& digest, int64_t size) = 0;
  // Up to `most` bytes from `offset`; empty at the end. NOT_FOUND unless complete; DATA_LOSS where the disk fails.
  virtual absl::StatusOr<std::string> Read(const std::string& digest, int64_t offset, size_t most) = 0;

  // Reads all of a complete one. DATA_LOSS when it is damaged: then it is set aside, and can be uploaded anew.
  // NOT_FOUND.
  virtual absl::Status Verify(const std::string& digest) = 0;
  // All, by digest.
  virtual absl::StatusOr<std::vector<Item>> List() = 0;
  // Removes those which `unwanted` names; calls on one wait for its answer. Gives how many bytes they had.
  // FAILED_PRECONDITION while an ArtifactHold lives.
  virtual absl::StatusOr<int64_t> RemoveIf(const std::function<bool(const Item&)>& unwanted) = 0;
  // Bytes of all. Waits for nothing.
  virtual int64_t Bytes() const = 0;
};

// In a directory, made when missing (its parent is there): complete ones in ab/abcd..., unfinished ones in unfinished/,
// where they stay to be resumed, damaged ones in damaged/, where nobody looks for them. Together they have at most
// `quota` bytes; 0: no bound.
absl::StatusOr<std::unique_ptr<ArtifactStore>> OpenArtifactDirectory(const std::string& directory, int64_t quota = 0);

// UNAVAILABLE where the directory is there and empty, as a mount point is without its file system: what it should hold is
// not lost then. Reading, and writing to it, say so too.
absl::Status CheckArtifactsMounted(const std::string& directory);

// Where a complete artifact lies in such a directory.
std::string ArtifactPath(const std::string& directory, const std::string& digest);

// While it lives nothing is removed from the directory, by any process.
class ArtifactHold {
 public:
  // Waits for a removal to end.
  static absl::StatusOr<ArtifactHold> Take(const std::string& directory);
  ArtifactHold(ArtifactHold&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  ArtifactHold& operator=(ArtifactHold&&) = delete;
  ~ArtifactHold();

 private:
  explicit ArtifactHold(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace ham::server
