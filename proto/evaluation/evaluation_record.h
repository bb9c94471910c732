// Records of evaluations: proto/ham/v1/evaluation.proto says what every field is and how a record is written. Pure; any
// thread.
//
// MakeRecord adds all that follows from the outcomes; record_file.h writes, signs and reads what it made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/evaluation/figures.h"

namespace ham {

inline constexpr int32_t kRecordFormatVersion = 1;
inline constexpr size_t kMostRecordRows = 200'000;
inline constexpr size_t kMostRecordClasses = 1'000;

struct EvaluatedModel {
  std::string name;
  std::string weights_digest;
  std::string activation;
  bool extra_block = false;
  std::vector<double> normalization_mean;
  std::vector<double> normalization_standard_deviation;
  std::string source;
};

struct EvaluatedData {
  std::string name;
  std::string split;
  std::string digest;
  int32_t image_size = 0;
  std::vector<std::string> class_names;
  std::vector<uint32_t> row_ids;  // of all rows, ascending
};

struct EvaluationThreat {
  std::string norm;
  double epsilon = 0;
};

struct RecordedAttack {
  std::string name;
  std::string loss;
  int32_t steps = 0;
  double step_size = 0;
  int32_t restarts = 1;
  int32_t targets = 0;
  bool random_start = false;
  std::string judged_at;
  double seconds = 0;
  uint64_t forward_passes = 0;
  uint64_t gradient_passes = 0;
  int32_t rows_tried = 0;   // set by MakeRecord
  int32_t rows_broken = 0;  // likewise
};

// An attack as it was asked for, in a few words: "pgd cross_entropy, 20 x 0.01, 3 restarts, judged at last". Attacks
// that were asked for otherwise have another text.
std::string AttackText(const RecordedAttack& attack);

// Numbers of EvaluationWarning.Type.
enum class WarningType {
  kRandomized = 1,
  kProbabilities = 2,
  kZeroGradients = 3,
  kBlackBoxStronger = 4,
  kDynamicForward = 5,
  kOutOfRange = 6,
  kOutsideBall = 7,
  kWeakPgd = 8,
  kLossStillRising = 9,
  kRobustAtLargeEpsilon = 10,
  kFewerTargets = 11,
};

struct EvaluationWarning {
  WarningType type;
  std::string message;
};

// "ZERO_GRADIENTS".
const char* WarningTypeName(WarningType type);

struct EvaluationRecord {
  EvaluatedModel model;
  EvaluatedData data;
  EvaluationThreat threat;
  std::vector<RecordedAttack> attacks;
  std::string precision;
  std::string device;
  uint64_t seed = 0;
  std::string code_version;
  std::string build_id;
  EvaluationOutcomes samples;
  EvaluationFigures figures;  // set by MakeRecord
  std::vector<EvaluationWarning> warnings;
  bool trusted = false;  // set by MakeRecord

  int32_t classes() const { return static_cast<int32_t>(data.class_names.size()); }
};

// The fewest digits that read back as this number.
std::string ShortestDigits(double value);

// Completes a record with what follows from the rest. DataLoss as CheckRecord.
absl::StatusOr<EvaluationRecord> MakeRecord(EvaluationRecord record, const FigureOptions& options = {});

// Whether all that figures are computed from, and all texts, are in their ranges and agree with each other. DataLoss as
// CheckRecord.
absl::Status CheckRecordInputs(const EvaluationRecord& record);

// Whether all fields are in their ranges, agree with each other, and the figures follow from the samples (but for 1e-9:
// another processor may round otherwise). DataLoss names the first field that does not.
absl::Status CheckRecord(const EvaluationRecord& record);

// The canonical JSON: what is signed. `record` is one that CheckRecord takes.
std::string RecordText(const EvaluationRecord& record);

}  // namespace ham
