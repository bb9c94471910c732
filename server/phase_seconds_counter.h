// Seconds of a job in each phase of its training steps, as a counter: it never falls.
#pragma once

#include <map>
#include <string>

#include "ham/v1/metrics.pb.h"

namespace ham::server {

class PhaseSecondsCounter {
 public:
  // Points of one job, in order. One at the end of an epoch covers those within it again.
  void Add(const ham::v1::TrainMetrics& train);
  // By field of PhaseSeconds; empty before the first point that has them.
  const std::map<std::string, double>& seconds() const { return seconds_; }

 private:
  std::map<std::string, double> seconds_;
  std::map<std::string, double> of_epoch_;  // of these, from points within the epoch
};

}  // namespace ham::server
