// The job as the trainer reads it: ham.v1.JobSpec as JSON with every option present (worker/ipc/frame.h).
//
// Field names, units and ranges: proto/ham/v1/job.proto.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include "absl/status/statusor.h"
#include "worker/trainer/data/augmentation_options.h"
#include "worker/trainer/models/activation.h"

namespace ham::trainer {

enum class Method { kPgdAt, kHam };
enum class RetainedEasy { kRandom, kHighConfidence };
enum class WeightMode { kEqual, kFirstCross, kDeltaMax, kKappa };
// kTargetedDlr and kLogitDifference are of attacks that go to one class; specs do not name them.
enum class AttackLoss { kCrossEntropy, kMargin, kDlr, kTargetedDlr, kLogitDifference };
enum class Norm { kLinf, kL2 };
enum class JudgedAt { kLast, kAny };
enum class StartDistribution { kUniform, kNormal };
enum class AttackWeights { kCurrent, kAverage };
enum class AttackBatchNorm { kEvaluation, kTraining };
enum class OptimizerKind { kSgd, kAdam, kAdamW };
enum class Schedule { kConstant, kStep, kCosine, kOneCycle };
enum class ScheduleBy { kIteration, kEpoch };
enum class Precision { kFp32, kTf32, kFp64, kBf16 };  // kTf32: on a GPU only
inline constexpr std::pair<const char*, Precision> kPrecisions[] = {
    {"fp32", Precision::kFp32}, {"tf32", Precision::kTf32}, {"fp64", Precision::kFp64}, {"bf16", Precision::kBf16}};
enum class Device { kCpu, kCuda };
enum class BatchNormMode { kSynchronized, kLocal };

struct DataOptions {
  std::string name;
  int64_t train_rows = 0;  // 0 = all
  int64_t test_rows = 0;   // 0 = all
  double validation_share = 0;
  int image_size = 0;  // 0: that of the files
  AugmentationOptions augmentation = {};
  std::string extra = {};  // name of extra training data; "" = none
  double extra_share = 0;  // of the rows of a batch; 0 without
};

struct ModelChoice {
  std::string name;
  Activation activation = Activation::kRelu;
  bool extra_block = false;
  bool normalize = false;  // by means and standard deviations of the data set
};

struct MethodOptions {
  Method name = Method::kHam;
  int mining_step = 3;
  int mining_start_epoch = 1;
  double retained_easy_share = 0;
  int64_t minimum_hard = 1;
  RetainedEasy retained_easy = RetainedEasy::kRandom;
  WeightMode weight_mode = WeightMode::kEqual;
  double drop_share = 0;
  bool balance_ranks = false;
};

struct AttackStage {
  int start_epoch = 1;
  double epsilon = 0;
  double step_size = 0;
  int steps = 0;
};

struct AttackOptions {
  double epsilon = 8.0 / 255;
  double step_size = 2.0 / 255;
  int steps = 10;
  bool random_start = true;
  AttackLoss loss = AttackLoss::kCrossEntropy;
  StartDistribution start_distribution = StartDistribution::kUniform;
  AttackWeights weights = AttackWeights::kCurrent;
  AttackBatchNorm batch_norm = AttackBatchNorm::kEvaluation;
  std::vector<AttackStage> stages = {};  // ascending start_epoch
  Norm norm = Norm::kLinf;
};

struct OptimizerOptions {
  OptimizerKind name = OptimizerKind::kAdam;
  double learning_rate = 0.001;
  double momentum = 0.9;
  double weight_decay = 0;
  Schedule schedule = Schedule::kCosine;
  std::vector<int> milestones = {};
  double gamma = 0.1;
  bool nesterov = false;
  bool decay_norm_and_bias = true;
  double warmup_share = 0.3;
  ScheduleBy schedule_by = ScheduleBy::kIteration;
  std::vector<double> factors = {};  // none, or one a milestone
  double gradient_clip_norm = 0;     // 0 = off
};

struct ClassBiasOptions {
  double running_rate = 0;  // 0 = off
  double running_decay = 0.98;
  int fit_rounds = 0;  // 0 = off
  double fit_step = 0.1;
};

struct CheckpointOptions {
  int64_t every_iterations = 0;  // 0 = at ends of epochs only
  int keep_every_epochs = 0;     // 0 = none
};

enum class AttackName { kPgd, kApgd, kApgdTargeted, kFabTargeted, kSquare };

struct EvaluationAttack {
  AttackLoss loss = AttackLoss::kCrossEntropy;  // of pgd and apgd
  int steps = 20;                               // of square, queries
  double step_size = 0;                         // of pgd, as the next and the last
  int restarts = 1;
  bool random_start = true;
  JudgedAt judged_at = JudgedAt::kLast;
  AttackName name = AttackName::kPgd;
  int targets = 0;  // classes that each row is to be taken for; 0: any, the attack is not targeted
};

struct AttackSuite {
  std::string name;
  double epsilon = 0;
  std::vector<EvaluationAttack> attacks;
  Norm norm = Norm::kLinf;
};

struct EvaluationOptions {
  int every_epochs = 1;  // 0 = only at the end
  std::vector<AttackSuite> suites;
  std::vector<AttackSuite> final_suites;
  bool reestimate_batch_norm = false;
};

struct TrainSpec {
  DataOptions data;
  ModelChoice model;
  MethodOptions method;
  AttackOptions attack;
  OptimizerOptions optimizer;
  int epochs = 12;
  int64_t batch_size = 128;  // rows of the global batch
  double ema_decay = 0.99;
  uint64_t seed = 0;
  EvaluationOptions evaluation;
  int world_size = 1;
  Device device = Device::kCpu;
  int threads_per_rank = 1;
  double label_smoothing = 0;
  ClassBiasOptions class_bias;
  Precision precision = Precision::kFp32;
  BatchNormMode batch_norm = BatchNormMode::kSynchronized;
  int swa_start_epoch = 0;  // 0 = off
  CheckpointOptions checkpoint;
  int accumulation_steps = 1;
};

// Names are as specs have them: records take them over.
struct EvaluateSpec {
  std::string model;
  std::string activation;
  bool extra_block = false;  // false: as the weights have it
  std::string data;
  int64_t rows = 0;  // the first so many; 0 = all
  int image_size = 0;
  AttackSuite suite;
  std::string precision;
  uint64_t seed = 0;
  Device device = Device::kCpu;
};

// Reads `spec`, a whole JobSpec. Options come from the coordinator (or `hamctl`), which resolves defaults, so a
// missing key is an error here, as are an unknown key, a wrong type and a value out of range. InvalidArgument
// names the field path. Stateless; any thread.
absl::StatusOr<TrainSpec> ParseTrainSpec(const nlohmann::json& spec);
// The same of a job that evaluates.
absl::StatusOr<EvaluateSpec> ParseEvaluateSpec(const nlohmann::json& spec);

// Reads one of a suite's attacks, all of its options; `path` names it in errors.
absl::StatusOr<EvaluationAttack> ParseEvaluationAttack(const nlohmann::json& attack, const std::string& path,
                                                       Norm norm);

// What holds in 1-based `epoch`.
AttackStage StageAt(const AttackOptions& attack, int epoch);

// As specs name them.
const char* AttackLossName(AttackLoss loss);
const char* AttackNameOf(const EvaluationAttack& attack);
const char* NormName(Norm norm);

}  // namespace ham::trainer
