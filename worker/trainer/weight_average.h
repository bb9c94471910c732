// Averages of the weights over a run.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "worker/trainer/models/parameter_set.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

inline constexpr char kAveragePrefix[] = "average.";  // before the names of the average's tensors in a checkpoint

// One of, running statistics included:
//   ema_decay > 0        after each update average <- ema_decay * average + (1 - ema_decay) * weights; starts as the
//                        first weights
//   swa_start_epoch > 0  equal average of the weights at the ends of the epochs from swa_start_epoch on
//   neither              no average
// Sums are in the type of the weights. One thread at a time.
class WeightAverage {
 public:
  WeightAverage(const TrainSpec& spec, const ParameterSet& first_weights);

  // Before any update: as if constructed with these.
  void StartFrom(const ParameterSet& first_weights) { average_ = first_weights.Clone(); }

  // Call after each update, and at the end of each 1-based epoch.
  void AfterUpdate(const ParameterSet& weights);
  void AfterEpoch(int epoch, const ParameterSet& weights);

  // The average, or `weights` where there is none (yet). What is returned shares its buffer, like any copy of it.
  ParameterSet Or(const ParameterSet& weights) const;

  // What AfterUpdate() changes; undefined if nothing.
  at::Tensor state() const { return ema_decay_ > 0 ? average_.flat() : at::Tensor(); }

  // Tensors "average.NAME" and "average_count" (int64, epochs averaged), where there is an average. InvalidArgument
  // names what is missing or of another shape.
  void Export(TensorMap* out) const;
  absl::Status Import(const TensorMap& in);

 private:
  bool Exists() const { return ema_decay_ > 0 || epochs_ > 0; }

  const double ema_decay_;
  const int swa_start_epoch_;
  ParameterSet average_;
  int64_t epochs_ = 0;  // averaged; of swa only
};

}  // namespace ham::trainer
