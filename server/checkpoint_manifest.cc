#include "server/checkpoint_manifest.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "proto/sha256.h"
#include "proto/worker_rules.h"

namespace ham::server {
namespace {

bool IsCounter(const nlohmann::json& value, uint64_t most) {
  return value.is_number_unsigned() && value.get<uint64_t>() <= most;  // a negative number is signed
}

}  // namespace

absl::StatusOr<CheckpointManifest> ParseCheckpointManifest(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  const absl::Status wrong = absl::InvalidArgumentError(
      "the manifest of the checkpoint is not a JSON object with iteration, epoch (whole numbers from 0) and files: "
      "upload what the trainer "
      "wrote");
  if (!json.is_object() || !json.contains("iteration") || !IsCounter(json["iteration"], INT64_MAX) ||
      !json.contains("epoch") || !IsCounter(json["epoch"], INT32_MAX) || !json.contains("files") ||
      !json["files"].is_array()) {
    return wrong;
  }
  CheckpointManifest manifest;
  manifest.iteration = json["iteration"].get<int64_t>();
  manifest.epoch = json["epoch"].get<int>();
  for (const nlohmann::json& file : json["files"]) {
    if (!file.is_object() || !file.contains("sha256") || !file["sha256"].is_string()) return wrong;
    const std::string digest = file["sha256"].get<std::string>();
    if (!IsSha256Hex(digest)) return wrong;
    manifest.files.insert(digest);
    if (file.value("name", nlohmann::json()) == "model.safetensors") manifest.model = digest;
    if (file.value("name", nlohmann::json()) == "state.safetensors") manifest.state = digest;
  }
  return manifest;
}

absl::StatusOr<CheckpointManifest> ReadCheckpointManifest(ArtifactStore* artifacts, const std::string& digest) {
  const absl::StatusOr<std::string> text = artifacts->Read(digest, 0, kMostManifestBytes);
  if (absl::IsNotFound(text.status())) {
    return absl::FailedPreconditionError(absl::StrCat("manifest ", digest, " is not here: upload it first"));
  }
  if (!text.ok()) return text.status();
  if (Sha256Hex(*text) != digest) {
    return absl::DataLossError(absl::StrCat("manifest ", digest, " is damaged: upload it again"));
  }
  return ParseCheckpointManifest(*text);
}

}  // namespace ham::server
