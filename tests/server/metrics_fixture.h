// Jobs and families for tests of what /metrics shows.
#pragma once

#include <prometheus/metric_family.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/cluster_snapshot.h"
#include "server/metric_families.h"

namespace ham::server {

// A job without metrics, as `row` would make it.
inline JobPicture Picture(const std::string& name) {
  JobPicture picture;
  JobFace face;
  face.name = name;
  face.project = "p";
  face.data_set = "d";
  picture.face = std::make_shared<const JobFace>(std::move(face));
  picture.create_time = absl::UnixEpoch() + absl::Seconds(7);
  return picture;
}

inline JobPicture Picture(const std::string& name, JobMetrics metrics) {
  JobPicture picture = Picture(name);
  picture.metrics = std::make_shared<const JobMetrics>(std::move(metrics));
  return picture;
}

inline ClusterSnapshot SnapshotOf(const std::vector<JobPicture>& pictures) {
  std::vector<std::shared_ptr<const JobPicture>> jobs;
  for (const JobPicture& picture : pictures) jobs.push_back(std::make_shared<const JobPicture>(picture));
  ClusterSnapshot snapshot;
  snapshot.jobs = std::make_shared<const std::vector<std::shared_ptr<const JobPicture>>>(std::move(jobs));
  return snapshot;
}

// "family{name=value,...}" to value. Fails the test for a series that stands twice.
inline std::map<std::string, double> SeriesOf(const MetricFamilies& families) {
  std::map<std::string, double> series;
  for (const MetricFamily& family : families) {
    for (const prometheus::ClientMetric& metric : family.metric) {
      std::string labels;
      for (const auto& label : metric.label) {
        absl::StrAppend(&labels, labels.empty() ? "" : ",", label.name, "=", label.value);
      }
      const double value = family.type == MetricType::Counter ? metric.counter.value : metric.gauge.value;
      EXPECT_TRUE(series.emplace(absl::StrCat(family.name, "{", labels, "}"), value).second) << family.name << labels;
    }
  }
  return series;
}

}  // namespace ham::server
