// A rank of an evaluation job: works by itself on the blocks that its agent hands on, until it is stopped. One a
// process.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>
#include "absl/status/status.h"
#include "worker/trainer/accelerator.h"
#include "worker/trainer/evaluation/block_queue.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

struct PoolRank {
  EvaluateSpec spec;
  std::string weights;  // file
  std::string data_root;
  std::string data_cache;
  int threads = 1;
};

// To the agent, from the thread that works; an error ends the run with it.
struct PoolEvents {
  std::function<void()> loading = [] {};  // LoadOptions::tick
  // With each pass over a block's images, and about every second without work; so many blocks are done.
  std::function<absl::Status(int64_t blocks)> progress;
  // An EvaluationFinding as protobuf JSON.
  std::function<absl::Status(nlohmann::json finding)> finding;
};

// Says what is evaluated, then what came of each block of `work`; returns with an error only. Null `accelerator`: on
// the CPU. Outcomes are those of RunEvaluation() (record_run.h) of the same. InvalidArgument, NotFound and DataLoss are
// the user's or the files'; Internal for a block that this evaluation does not have.
absl::Status RunPoolRank(const PoolRank& rank, std::unique_ptr<Accelerator> accelerator, BlockQueue& work,
                         const PoolEvents& events);

}  // namespace ham::trainer
