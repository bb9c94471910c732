// What `ham-trainer bench` prints. Pure.
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>
#include "worker/trainer/run_metrics.h"

namespace ham::trainer {

struct BenchReport {
  std::string model, precision;
  int epoch = 1;  // whose steps were timed
  int world_size = 1;
  int threads = 1;  // of each rank
  FlopScale scale;
  TrainWindow window = {};      // of the timed steps, with the seconds of an evaluation
  double seconds = 0;           // wall time of these steps
  int64_t evaluation_rows = 0;  // 0: there was no evaluation
  double evaluation_flops = 0;
};

// "phases" has an object for each phase of a step, "evaluation" is one where there was an evaluation: seconds, share
// (of the steps' time; not of an evaluation), flops, flops_per_second, share_of_peak. What is not a number is a string,
// as in metrics.
nlohmann::json BenchJson(const BenchReport& report);

// The same for people: a line a phase, in G or T, whichever the device counts in.
std::string BenchTable(const BenchReport& report);

}  // namespace ham::trainer
