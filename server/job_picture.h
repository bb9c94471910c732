// What /metrics shows of one job.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "ham/v1/job.pb.h"
#include "ham/v1/metrics.pb.h"
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

// What never changes.
struct JobFace {
  std::string name;  // projects/{p}/jobs/{j}
  std::string project;
  bool evaluates = false;
  std::string data_set;
  std::string creator;
  // Of the spec; "" while it is not known.
  std::string method;
  std::string model;
};

// Every job has at least so many time series.
inline constexpr size_t kFewestSeries = 5;

struct JobPicture {
  std::shared_ptr<const JobFace> face;
  ham::v1::Job::State state = ham::v1::Job::QUEUED;
  int attempt = 0;
  int failed_attempts = 0;  // since the last checkpoint
  absl::Time create_time = absl::InfinitePast();
  absl::Time end_time = absl::InfinitePast();  // of a final state
  std::optional<int64_t> checkpoint_iteration;
  std::shared_ptr<const JobMetrics> metrics;  // null before the first
};

}  // namespace ham::server
