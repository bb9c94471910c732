// `ham-trainer bench`: where the time of training steps goes, and how much of the device it makes use of.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "worker/trainer/job_runner.h"

namespace ham::trainer {

struct BenchOptions {
  int iterations = 30;          // timed ones; [1, 1,000,000]
  int epoch = 0;                // whose steps; [1, the job's], 0 = the last one
  int64_t evaluation_rows = 0;  // first test images that the job's periodic evaluation is timed on; 0 = none
  std::string trace;            // file that gets a trace of what is timed; "" = none
  bool json = false;
};

// Measures what matrix products reach on this device, runs a few steps to warm up, then times steps of the job on its
// own data, all ranks together, and prints a table, or a JSON object. Rank 0 prints; seconds are its own,
// floating-point operations (ModelFlops) and the peak are of all ranks. `rendezvous_dir` is needed for more than one
// rank.
absl::Status RunBench(const RankJob& job, const std::string& rendezvous_dir, const BenchOptions& options);

}  // namespace ham::trainer
