// `ham-trainer bench`: how fast the training step is.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "worker/trainer/job_runner.h"

namespace ham::trainer {

// Runs a few steps to warm up, then `iterations` steps of the job's last epoch on its own data, all ranks together, and
// prints images a second (of all ranks) and the seconds of each part: a line for people, or a JSON object. Rank 0
// prints. `rendezvous_dir` is needed for more than one rank.
absl::Status RunBench(const RankJob& job, const std::string& rendezvous_dir, int iterations, bool json);

}  // namespace ham::trainer
