// Two models, by records of the same images under the same attacks. Pure; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/evaluation/evaluation_record.h"

namespace ham {

struct NamedRecord {
  std::string name;  // for errors: its file
  const EvaluationRecord* record;
};

// Differences are B - A, with 95 % intervals: percentiles of a bootstrap over images, drawn within each class, an image
// with its outcomes of both models. They say how sure a difference is between these two models on other images, not
// between two ways of training: for that see SideSpread.
struct ClassComparison {
  std::string name;
  int32_t rows = 0;
  Estimate robust_difference;  // NaN without rows
  int32_t only_a = 0;          // rows that are robust with A and not with B
  int32_t only_b = 0;
  double p_value = 0;           // McNemarPValue; NaN without rows
  double adjusted_p_value = 0;  // with the correction of Holm for all classes that have rows
};

struct SeedSpread {
  double mean = 0;
  double standard_deviation = 0;  // of a sample (n - 1); NaN for one record
};

// Over trainings of one side, each a point: images play no part in it.
struct SideSpread {
  int32_t records = 0;
  SeedSpread clean_accuracy;
  SeedSpread robust_accuracy;
  SeedSpread worst_class_robust_accuracy;
};

struct RecordComparison {
  Estimate clean_difference;
  Estimate robust_difference;
  Estimate worst_class_difference;  // of the smallest class accuracies; the classes may be different ones
  std::vector<ClassComparison> classes;
  // The class that was chosen before looking at these images. Its p_value needs no correction.
  std::optional<int32_t> validation_class;
  double rho = 0;  // Rho of B against A: to be shown, never to rank by
  SideSpread a, b;
};

struct ComparisonOptions {
  std::string validation_class;  // its name, for example of the worst class on validation images; "": none
  int32_t resamples = 2000;
  uint64_t seed = 0;
};

// The first record of each side, which is never empty, is compared; all of them, of one model each, make the spread.
// Records are ones that CheckRecord takes. InvalidArgument names what differs between records that must agree (data,
// rows, threat, attacks as they were asked for), a model that is twice on one side, and an unknown class.
absl::StatusOr<RecordComparison> CompareRecords(const std::vector<NamedRecord>& a, const std::vector<NamedRecord>& b,
                                                const ComparisonOptions& options = {});

// Exact and two-sided: the probability of a split at least as uneven as this one if either side were as likely (twice
// the smaller tail of the binomial distribution, at most 1).
double McNemarPValue(int64_t only_a, int64_t only_b);

// Holm's step-down adjustment, in the order of the given values.
std::vector<double> HolmAdjusted(const std::vector<double>& p_values);

}  // namespace ham
