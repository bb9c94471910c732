// What a watcher knows of a job, made from its records. Pure.
#pragma once

#include <optional>

#include "absl/time/time.h"
#include "ham/v1/job_service.pb.h"

namespace ham::client {

struct JobProgress {
  ham::v1::Job job;  // as last told
  int attempt = 0;   // of the newest record of an attempt; the rest begins anew with each attempt
  std::optional<ham::v1::TrainMetrics> train;  // newest point
  int epoch = 0;
  int64_t iteration = 0;
  std::optional<ham::v1::EvaluationMetrics> evaluation;  // newest; stays over attempts
  int evaluation_epoch = 0;
  // Of the first and the newest train point of the attempt, for the time left.
  absl::Time first_time, newest_time;
  int64_t first_iteration = 0;
};

void Apply(const ham::v1::WatchJobResponse& response, JobProgress* progress);

// [0, 1]; 0 before the first train point.
double DoneShare(const JobProgress& progress);
// By the pace of this attempt, its evaluations included; nullopt while nothing is known.
std::optional<absl::Duration> TimeLeft(const JobProgress& progress);

}  // namespace ham::client
