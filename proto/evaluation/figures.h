// From the outcome of each image to the figures of an evaluation. proto/ham/v1/evaluation.proto defines every figure;
// names are the same. Pure; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace ham {

inline constexpr int32_t kNotBroken = -1;

// Of each row; all vectors have one entry a row.
struct EvaluationOutcomes {
  std::vector<int32_t> labels;
  std::vector<int32_t> clean_predictions;
  std::vector<int32_t> broken_by;           // index of the attack that broke the row, or kNotBroken
  std::vector<int32_t> attack_predictions;  // at the adversarial point of broken rows; else the clean prediction
  std::vector<float> margins;               // smallest one where the row was judged

  size_t rows() const { return labels.size(); }
  bool CleanRight(size_t row) const { return clean_predictions[row] == labels[row]; }
  bool Robust(size_t row) const { return CleanRight(row) && broken_by[row] == kNotBroken; }
};

// Whether outcomes under `attacks` attacks are possible at all. DataLoss names the first that is not.
absl::Status CheckOutcomes(const EvaluationOutcomes& outcomes, int32_t classes, int32_t attacks);

struct Estimate {
  double value = 0;
  double low = 0;
  double high = 0;
};

struct ClassFigures {
  int32_t rows = 0;
  Estimate clean_accuracy;
  Estimate robust_accuracy;
  Estimate boundary_error;
};

struct AttackEffect {
  double robust_accuracy = 0;
  double lowered_by = 0;
  double worst_class_robust_accuracy = 0;
  std::vector<int32_t> broken_by_class;
};

struct FigureOptions {
  int32_t worst_k = 2;
  int32_t resamples = 2000;
  uint64_t seed = 0;
};

struct EvaluationFigures {
  Estimate clean_accuracy;
  Estimate robust_accuracy;
  Estimate boundary_error;
  std::vector<ClassFigures> classes;
  int32_t worst_class = 0;
  Estimate worst_class_robust_accuracy;
  Estimate worst_k_robust_accuracy;
  Estimate worst_30_percent_robust_accuracy;
  Estimate best_worst_gap;
  Estimate standard_deviation;
  Estimate normalized_standard_deviation;
  std::vector<int32_t> confusion;  // [classes * classes]
  std::vector<AttackEffect> attacks;
  FigureOptions options;  // worst_k, resamples, resampling_seed
};

// Of outcomes that CheckOutcomes takes. About 0.1 s for 10,000 rows and 2,000 resamples.
EvaluationFigures ComputeFigures(const EvaluationOutcomes& outcomes, int32_t classes, int32_t attacks,
                                 const FigureOptions& options);

// rho = (worst - base worst) / base worst + (average - base average) / base average, of robust accuracies (WAT, DAFA).
// To be shown, never to rank or choose by: a base with a worst class near 0 makes any gain there look huge. NaN or
// infinite where the base has a 0.
double Rho(const EvaluationFigures& figures, const EvaluationFigures& base);

// part / whole; NaN of 0 rows.
double Share(int64_t part, int64_t whole);

}  // namespace ham
