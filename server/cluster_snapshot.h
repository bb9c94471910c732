// What ListWorkers and /metrics show: an immutable picture that the core's thread publishes.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "ham/v1/metrics.pb.h"
#include "ham/v1/worker_service.pb.h"
#include "server/coordinator.h"
#include "server/phase_seconds_counter.h"

namespace ham::server {

// Newest metrics of a job that runs or ended a short time ago.
struct JobMetrics {
  int64_t iteration = 0;
  int32_t epoch = 0;
  std::optional<ham::v1::TrainMetrics> train;
  PhaseSecondsCounter phase_seconds;  // since the coordinator started
  std::optional<ham::v1::EvaluationMetrics> evaluation;
  bool robust_overfitting = false;  // there was such a notice
};

struct ClusterSnapshot {
  std::vector<WorkerView> workers;  // by name
  std::array<int64_t, ham::v1::Job::State_ARRAYSIZE> jobs_by_state{};
  std::map<std::string, std::shared_ptr<const JobMetrics>> metrics;  // by job name
  std::map<std::string, std::vector<ham::v1::GpuReading>> gpus;      // of connected workers, by worker_id
  int64_t attempts_started = 0;                                      // since the coordinator started
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
