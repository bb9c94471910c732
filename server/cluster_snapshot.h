// What ListWorkers and /metrics show: an immutable picture that the core's thread publishes.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "ham/v1/worker_service.pb.h"
#include "server/coordinator.h"
#include "server/job_event_counts.h"
#include "server/job_picture.h"

namespace ham::server {

// Durations that are moments are steady, as Now.steady; a reader may come much later.
struct ClusterSnapshot {
  std::vector<WorkerView> workers;  // by name
  std::array<int64_t, ham::v1::Job::State_ARRAYSIZE> jobs_by_state{};
  // Those with time series, first those that matter most; at most a second older than the rest.
  std::shared_ptr<const std::vector<std::shared_ptr<const JobPicture>>> jobs =
      std::make_shared<const std::vector<std::shared_ptr<const JobPicture>>>();
  size_t jobs_left_out = 0;                                      // that would have some, too
  size_t waiting_jobs = 0;                                       // for slots
  absl::Duration oldest_wait = absl::InfiniteDuration();         // since when the oldest does
  std::map<std::string, std::vector<ham::v1::GpuReading>> gpus;  // of connected workers, by worker_id
  absl::Duration leases_held_until = -absl::InfiniteDuration();  // the coordinator suspects itself: none ends before
  absl::Duration lease;
  absl::Duration start;  // of the coordinator
  // Since then:
  JobEventCounts events;
  int64_t attempts_started = 0;
  int64_t batches = 0;  // of the core's thread
  double batch_seconds = 0;
  int64_t commits = 0;
  int64_t failed_commits = 0;
  double commit_seconds = 0;  // sum over commits
  bool store_failed = false;
};

// Any thread; no lock of the core is taken. Not a std::atomic: a reader of libstdc++ 12's leaves it with relaxed order,
// so that the next write races with it.
class SnapshotCell {
 public:
  std::shared_ptr<const ClusterSnapshot> Get() const {
    absl::MutexLock lock(&mutex_);
    return newest_;
  }
  void Set(std::shared_ptr<const ClusterSnapshot> snapshot) {
    absl::MutexLock lock(&mutex_);
    newest_.swap(snapshot);  // the old one ends outside the lock
  }

 private:
  mutable absl::Mutex mutex_;
  std::shared_ptr<const ClusterSnapshot> newest_ ABSL_GUARDED_BY(mutex_) = std::make_shared<const ClusterSnapshot>();
};

}  // namespace ham::server
