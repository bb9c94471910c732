#include "server/named_artifacts.h"

#include "absl/strings/str_cat.h"
#include "server/checkpoint_manifest.h"

namespace ham::server {

// Another try would find the same.
bool NamedArtifacts::IsLost(const absl::Status& status) {
  const bool lost = absl::IsDataLoss(status) || absl::IsNotFound(status) || absl::IsFailedPrecondition(status) ||
                    absl::IsInvalidArgument(status);
  knows_all_ = knows_all_ && !lost;
  return lost;
}

absl::StatusOr<std::set<std::string>> NamedArtifacts::FilesOf(const std::string& manifest) {
  const auto known = files_.find(manifest);
  if (known != files_.end()) return known->second;
  absl::StatusOr<CheckpointManifest> read = ReadCheckpointManifest(artifacts_, manifest);
  if (IsLost(read.status())) return std::set<std::string>();
  if (!read.ok()) return read.status();
  return files_[manifest] = std::move(read->files);
}

absl::StatusOr<std::string> NamedArtifacts::WeightsOf(const std::string& job) {
  const auto known = weights_.find(job);
  if (known != weights_.end()) return known->second;
  const absl::StatusOr<JobContent> content = content_(job);
  if (IsLost(content.status())) return "";
  if (!content.ok()) return content.status();
  return weights_[job] = content->spec.evaluate().weights();
}

absl::StatusOr<std::map<std::string, std::string>> NamedArtifacts::Of(const std::vector<JobRow>& jobs) {
  std::map<std::string, std::string> named;
  knows_all_ = true;
  for (const JobRow& row : jobs) {
    knows_all_ = knows_all_ && row.state_reason != kRowDamaged;
    std::vector<ham::v1::Checkpoint> checkpoints = row.older_checkpoints;
    if (row.checkpoint) checkpoints.push_back(*row.checkpoint);
    for (const ham::v1::Checkpoint& checkpoint : checkpoints) {
      const std::string what = absl::StrCat("the checkpoint of iteration ", checkpoint.iteration(), " of ", row.name);
      const absl::StatusOr<std::set<std::string>> files = FilesOf(checkpoint.manifest_digest());
      if (!files.ok()) return files.status();
      named.emplace(checkpoint.manifest_digest(), what);
      for (const std::string& file : *files) named.emplace(file, what);
    }
    if (!row.record_digest.empty()) named.emplace(row.record_digest, absl::StrCat("the record of ", row.name));
    if (!row.pool) continue;
    const absl::StatusOr<std::string> weights = WeightsOf(row.name);
    if (!weights.ok()) return weights.status();
    if (!weights->empty()) named.emplace(*weights, absl::StrCat("the weights that ", row.name, " evaluates"));
  }
  std::erase_if(files_, [&named](const auto& entry) { return named.count(entry.first) == 0; });
  return named;
}

}  // namespace ham::server
