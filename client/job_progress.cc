#include "client/job_progress.h"

#include <algorithm>

#include "client/text.h"

namespace ham::client {
namespace {

void ApplyTrain(const ham::v1::MetricPoint& metric, absl::Time time, JobProgress* progress) {
  if (!progress->train.has_value()) {
    progress->first_time = time;
    progress->first_iteration = metric.iteration();
  }
  progress->train = metric.train();
  progress->epoch = metric.epoch();
  progress->iteration = metric.iteration();
  progress->newest_time = time;
}

}  // namespace

void Apply(const ham::v1::WatchJobResponse& response, JobProgress* progress) {
  if (response.has_job()) progress->job = response.job();
  for (const ham::v1::JobRecord& record : response.records()) {
    if (record.attempt() > progress->attempt) {
      progress->attempt = record.attempt();
      progress->train.reset();
    }
    if (!record.has_metric() || record.attempt() < progress->attempt) continue;
    const ham::v1::MetricPoint& metric = record.metric();
    if (metric.has_train()) ApplyTrain(metric, FromTimestamp(record.time()), progress);
    if (metric.has_evaluation()) {
      progress->evaluation = metric.evaluation();
      progress->evaluation_epoch = metric.epoch();
    }
  }
}

double DoneShare(const JobProgress& progress) {
  if (!progress.train.has_value() || progress.train->total_iterations() <= 0) return 0;
  return std::clamp(static_cast<double>(progress.iteration) / static_cast<double>(progress.train->total_iterations()),
                    0.0, 1.0);
}

std::optional<absl::Duration> TimeLeft(const JobProgress& progress) {
  const int64_t done = progress.iteration - progress.first_iteration;
  if (!progress.train.has_value() || done <= 0) return std::nullopt;
  const auto left = static_cast<double>(progress.train->total_iterations() - progress.iteration);
  return (progress.newest_time - progress.first_time) * (std::max(0.0, left) / static_cast<double>(done));
}

}  // namespace ham::client
