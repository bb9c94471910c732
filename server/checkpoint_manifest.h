// What a checkpoint's manifest says (written by worker/trainer/checkpoint.cc), as far as the coordinator reads it.
#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "server/artifact_store.h"

namespace ham::server {

struct CheckpointManifest {
  int64_t iteration = 0;
  int epoch = 0;
  std::set<std::string> files;  // SHA-256
  // Of these, "" where none has the name: model.safetensors, the weights, and state.safetensors, which holds their
  // average where there is one.
  std::string model, state;
};

// INVALID_ARGUMENT for text that is no manifest.
absl::StatusOr<CheckpointManifest> ParseCheckpointManifest(const std::string& text);
// The same from the store; FAILED_PRECONDITION while it is not there, DATA_LOSS for a damaged one.
absl::StatusOr<CheckpointManifest> ReadCheckpointManifest(ArtifactStore* artifacts, const std::string& digest);

}  // namespace ham::server
