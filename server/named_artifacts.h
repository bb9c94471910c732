// Which artifacts the rows of jobs name.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/artifact_store.h"
#include "server/store.h"

namespace ham::server {

// Remembers what it has read of the jobs at hand: manifests and specs never change. One thread at a time.
class NamedArtifacts {
 public:
  using ContentReader = std::function<absl::StatusOr<JobContent>(const std::string& job)>;

  // `artifacts` outlives it.
  NamedArtifacts(ArtifactStore* artifacts, ContentReader content)
      : artifacts_(artifacts), content_(std::move(content)) {}

  // By digest, what the artifact is. A row, manifest or spec that is damaged or missing names nothing; UNAVAILABLE
  // where one cannot be read at present.
  absl::StatusOr<std::map<std::string, std::string>> Of(const std::vector<JobRow>& jobs);
  // Of the last Of(): whether all of them could be read, so that what is not in it is named by nobody.
  bool knows_all() const { return knows_all_; }

 private:
  bool IsLost(const absl::Status& status);
  absl::StatusOr<std::set<std::string>> FilesOf(const std::string& manifest);
  absl::StatusOr<std::string> WeightsOf(const std::string& job);

  ArtifactStore* const artifacts_;
  const ContentReader content_;
  std::map<std::string, std::set<std::string>> files_;  // by manifest
  std::map<std::string, std::string> weights_;          // by job
  bool knows_all_ = true;
};

}  // namespace ham::server
