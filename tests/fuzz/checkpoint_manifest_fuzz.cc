// Manifests of checkpoints as the coordinator reads them.
#include "server/checkpoint_manifest.h"

#include "proto/sha256.h"
#include "tests/fuzz/fuzz.h"

namespace ham::fuzz {

std::vector<std::string> Seeds() {
  const std::string digest(64, 'a');
  return {R"({"format_version": 1, "iteration": 100, "epoch": 2, "files": [{"name": "m", "sha256": ")" + digest +
              R"(", "bytes": 5}]})",
          R"({"iteration": 0, "epoch": 0, "files": []})", "{"};
}

void TryInput(const std::string& input) {
  const absl::StatusOr<server::CheckpointManifest> manifest = server::ParseCheckpointManifest(input);
  if (!manifest.ok()) {
    Check(manifest.status().code() == absl::StatusCode::kInvalidArgument, "a refused text is an invalid argument");
    return;
  }
  Check(manifest->iteration >= 0 && manifest->epoch >= 0, "counters are not negative");
  for (const std::string& digest : manifest->files) Check(IsSha256Hex(digest), "files are named by their digests");
}

}  // namespace ham::fuzz
