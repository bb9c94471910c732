// Where ranks leave their addresses for each other before they are connected.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace ham::trainer {

// Implementations may be called from any thread.
class KeyValueStore {
 public:
  virtual ~KeyValueStore() = default;
  // Keys: 1 to 128 of [A-Za-z0-9_-]. Values: any bytes, up to 64 KiB. A key is set once.
  virtual absl::Status Set(const std::string& key, const std::string& value) = 0;
  // Waits until the key is set. DeadlineExceeded names the key.
  virtual absl::StatusOr<std::string> Get(const std::string& key, absl::Duration timeout) = 0;
};

// A file a key in `directory` (made when missing), for ranks that see one file system. Each group
// needs a directory of its own: a key that an earlier group left there is AlreadyExists.
std::unique_ptr<KeyValueStore> MakeFileStore(const std::string& directory);

}  // namespace ham::trainer
