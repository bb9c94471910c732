#include "server/artifact_collector.h"

#include <spdlog/spdlog.h>

#include <map>
#include <utility>

#include "absl/time/clock.h"

namespace ham::server {

ArtifactCollector::ArtifactCollector(const Limits& limits, ArtifactStore* artifacts, JobsReader jobs,
                                     NamedArtifacts::ContentReader content)
    : limits_(limits), artifacts_(artifacts), jobs_(std::move(jobs)), names_(artifacts, std::move(content)) {}

ArtifactCollector::~ArtifactCollector() { Shutdown(); }

void ArtifactCollector::Start() {
  thread_ = std::thread([this] { Run(); });
}

void ArtifactCollector::Shutdown() {
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void ArtifactCollector::NoteDamage() {
  absl::MutexLock lock(&mutex_);
  damage_ = true;
}

void ArtifactCollector::NoteNamed(const std::set<std::string>& digests) {
  absl::MutexLock lock(&mutex_);
  noted_.insert(digests.begin(), digests.end());
}

void ArtifactCollector::Run() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&closed_), limits_.artifact_sweep)) return;
    }
    const absl::StatusOr<int64_t> bytes = Sweep(absl::Now());
    if (!bytes.ok()) {
      spdlog::info("Artifacts that no job names stay for now: {}", std::string(bytes.status().message()));
    } else if (*bytes > 0) {
      spdlog::info("Removed {} bytes of artifacts that no job names.", *bytes);
    }
  }
}

absl::StatusOr<int64_t> ArtifactCollector::Sweep(absl::Time now) {
  bool damaged = false;
  {
    absl::MutexLock lock(&mutex_);
    named_.merge(std::exchange(noted_, {}));
    damaged = damage_;
  }
  const absl::StatusOr<std::vector<JobRow>> jobs = jobs_();
  if (!jobs.ok()) return jobs.status();
  const absl::StatusOr<std::map<std::string, std::string>> named = names_.Of(*jobs);
  if (!named.ok()) return named.status();
  for (const std::string& digest : std::exchange(named_, {})) {
    if (named->count(digest) == 0) released_.insert(digest);
  }
  if (damaged) released_.clear();
  for (const auto& [digest, what] : *named) {
    named_.insert(digest);
    released_.erase(digest);
  }
  return artifacts_->RemoveIf([&](const ArtifactStore::Item& item) {
    if (named_.count(item.digest) != 0 || (item.complete && !names_.knows_all())) return false;
    const bool released = item.complete && released_.count(item.digest) != 0;
    const absl::Duration life = released ? limits_.released_artifact_life : limits_.unnamed_artifact_life;
    if (now - item.asked <= life) return false;
    released_.erase(item.digest);
    return true;
  });
}

}  // namespace ham::server
