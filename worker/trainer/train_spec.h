// The job as the trainer reads it: ham.v1.JobSpec as JSON with every option present (worker/ipc/frame.h).
//
// Field names, units and ranges: proto/ham/v1/job.proto.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include "absl/status/statusor.h"

namespace ham::trainer {

enum class Method { kPgdAt, kHam };
enum class AttackLoss { kCrossEntropy, kMargin };
enum class OptimizerKind { kSgd, kAdam };
enum class Schedule { kConstant, kStep, kCosine };

struct DataOptions {
  std::string name;
  int64_t train_rows = 0;  // 0 = all
  int64_t test_rows = 0;   // 0 = all
};

struct MethodOptions {
  Method name = Method::kHam;
  int mining_step = 3;
  int mining_start_epoch = 1;
  double retained_easy_share = 0;
  int64_t minimum_hard = 1;
};

struct AttackOptions {
  double epsilon = 8.0 / 255;
  double step_size = 2.0 / 255;
  int steps = 10;
  bool random_start = true;
};

struct OptimizerOptions {
  OptimizerKind name = OptimizerKind::kAdam;
  double learning_rate = 0.001;
  double momentum = 0.9;
  double weight_decay = 0;
  Schedule schedule = Schedule::kCosine;
  std::vector<int> milestones = {};
  double gamma = 0.1;
};

struct EvaluationAttack {
  AttackLoss loss = AttackLoss::kCrossEntropy;
  int steps = 20;
  double step_size = 0;
  int restarts = 1;
  bool random_start = true;
};

struct AttackSuite {
  std::string name;
  double epsilon = 0;
  std::vector<EvaluationAttack> attacks;
};

struct EvaluationOptions {
  int every_epochs = 1;  // 0 = only at the end
  std::vector<AttackSuite> suites;
  std::vector<AttackSuite> final_suites;
};

struct TrainSpec {
  DataOptions data;
  std::string model;
  MethodOptions method;
  AttackOptions attack;
  OptimizerOptions optimizer;
  int epochs = 12;
  int64_t batch_size = 128;  // rows of the global batch
  double ema_decay = 0.99;
  uint64_t seed = 0;
  EvaluationOptions evaluation;
  int world_size = 1;
  int threads_per_rank = 1;
};

// Reads `spec`, a whole JobSpec. Options come from the coordinator (or `hamctl`), which resolves defaults, so a
// missing key is an error here, as are an unknown key, a wrong type and a value out of range. InvalidArgument
// names the field path. Stateless; any thread.
absl::StatusOr<TrainSpec> ParseTrainSpec(const nlohmann::json& spec);

// "cross_entropy" or "margin".
const char* AttackLossName(AttackLoss loss);

}  // namespace ham::trainer
