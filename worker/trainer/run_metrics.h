// The numbers of a run as the JSON of ham.v1.MetricPoint (proto/ham/v1/metrics.proto says what each one is).
//
// Everything here is pure; safe from any thread.
#pragma once

#include <limits>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include "worker/trainer/evaluation/evaluator.h"
#include "worker/trainer/gradient_reducer.h"
#include "worker/trainer/step_profile.h"

namespace ham::trainer {

// Steps added up, between two points.
struct TrainWindow {
  StepSums sums;         // loss and weight of finite steps only
  PhaseSeconds seconds;  // of this rank; added by whoever has them
  int64_t iterations = 0;
  int64_t skipped_iterations = 0;
  double gradient_norm = 0;  // sum over iterations that were not skipped

  void Add(const StepSums& step, bool skipped);
};

// What makes floating-point operations of passes, and a share of what the ranks can do of those.
struct FlopScale {
  ModelFlops model;
  // Of all ranks together, in matrix products; NaN: not measured.
  double peak_per_second = std::numeric_limits<double>::quiet_NaN();

  // Of the peak, while these were done.
  double Utilization(double flops, double seconds) const { return flops / (seconds * peak_per_second); }
};

// Floating-point operations of a phase of steps, of these passes of them.
double FlopsOf(Phase phase, const std::vector<int64_t>& passes, const ModelFlops& model);

// Sum of counts.
int64_t Total(const std::vector<int64_t>& counts);

// A number as protobuf JSON has it: non-finite ones are "NaN", "Infinity", "-Infinity".
nlohmann::json JsonNumber(double value);

// A window in a checkpoint, and back; throws as the JSON library does where that is not one.
nlohmann::json WindowJson(const TrainWindow& window);
TrainWindow WindowOf(const nlohmann::json& window);

nlohmann::json TrainMetricsJson(const TrainWindow& window, const FlopScale& scale, double learning_rate,
                                int64_t total_iterations, bool end_of_epoch, bool mining);

nlohmann::json EvaluationMetricsJson(const EvaluationCounts& counts, const std::vector<AttackSuite>& suites,
                                     const std::vector<std::string>& class_names, const char* split, double seconds,
                                     const FlopScale& scale, bool final);

// Whole run; carried in checkpoints.
struct RunTotals {
  double attack_seconds = 0;
  double train_seconds = 0;
  double evaluation_seconds = 0;
  double step_seconds = 0;                        // all phases of steps
  double model_flops = 0;                         // of steps, all ranks
  int64_t mined_rows = 0;                         // rows seen while mining was on
  int64_t hard_rows = 0;                          // of these, hard
  std::vector<std::string> inexact_because = {};  // RunSummary.inexact_because
};

nlohmann::json RunSummaryJson(const RunTotals& totals, const FlopScale& scale, int64_t iterations);

}  // namespace ham::trainer
