// Removes artifacts that no job names: what a newer checkpoint released, and uploads that nobody finished or used.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/artifact_store.h"
#include "server/named_artifacts.h"
#include "server/options.h"

namespace ham::server {

class ArtifactCollector {
 public:
  // Committed rows of all jobs.
  using JobsReader = std::function<absl::StatusOr<std::vector<JobRow>>()>;

  // `artifacts` outlives it; the readers may be called until Shutdown. Of `limits` it uses artifact_sweep,
  // unnamed_artifact_life and released_artifact_life.
  ArtifactCollector(const Limits& limits, ArtifactStore* artifacts, JobsReader jobs,
                    NamedArtifacts::ContentReader content);
  ~ArtifactCollector();  // Shutdown

  // Sweeps each `limits.artifact_sweep` from now on, on a thread of its own.
  void Start();
  // Joins the thread. Idempotent.
  void Shutdown();

  // A checkpoint was dropped since it could not be read. Perhaps it can be again: from now on nothing counts as
  // released.
  void NoteDamage();
  // A job has named these since the last sweep, and may name them no more by the next. Any thread.
  void NoteNamed(const std::set<std::string>& digests);
  // Looks once; gives the bytes removed. Nothing is removed where rows, manifests or specs cannot be read at present,
  // and nothing complete where one is damaged: what it named is not known. One thread at a time.
  absl::StatusOr<int64_t> Sweep(absl::Time now);

 private:
  void Run();

  const Limits limits_;
  ArtifactStore* const artifacts_;
  const JobsReader jobs_;
  NamedArtifacts names_;
  std::set<std::string> named_;     // as of the last sweep
  std::set<std::string> released_;  // named once, and no more

  absl::Mutex mutex_;
  std::set<std::string> noted_ ABSL_GUARDED_BY(mutex_);
  bool damage_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace ham::server
