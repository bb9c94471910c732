// Sums of one training step over all ranks, by one all-reduce.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "worker/trainer/collective.h"
#include "worker/trainer/device.h"
#include "worker/trainer/models/parameter_set.h"
#include "worker/trainer/step_counts.h"

namespace ham::trainer {

// Whether no number of `flat`, contiguous float32 or float64, is NaN or infinite.
bool AllFinite(const at::Tensor& flat);

// Over the rows of one rank, or of all.
struct StepSums {
  double loss = 0;           // sum of weight * loss over kept rows
  double weight = 0;         // sum of their weights
  int64_t rows = 0;          // rows of the batch
  int64_t hard_rows = 0;     // still misclassified after mining_step; all rows where nothing is mined
  int64_t kept_rows = 0;     // rows trained on
  bool finite = true;        // loss and every gradient, before and after summing
  double gradient_norm = 0;  // L2, of the trained parameters; set by Reduce
  StepCounts counts{};
  // Of one rank, what is still on its device: [1 + 11 K] float64, to be added to loss, class_right and confidence, one
  // after the other. Undefined where all is above.
  at::Tensor on_device{};
};

// Those of all ranks, which may still be on their way from the device.
class GlobalSums {
 public:
  explicit GlobalSums(StepSums sums) : sums_(std::move(sums)) {}
  // unpack: makes them of the numbers on the host. finite, kept_rows: as in StepSums, on the device.
  GlobalSums(HostCopy numbers, std::function<StepSums(const at::Tensor&)> unpack, at::Tensor finite,
             at::Tensor kept_rows)
      : numbers_(std::move(numbers)),
        unpack_(std::move(unpack)),
        finite_(std::move(finite)),
        kept_rows_(std::move(kept_rows)) {}

  // Whether the host has them.
  bool Known() const { return sums_.has_value(); }
  // Waits for the device where these are not there yet.
  const StepSums& Get();
  // Whether the step is finite and kept at least `needed` rows, on the device: a bool, no dimension; undefined on the
  // host.
  at::Tensor Counts(int64_t needed) const;

 private:
  std::optional<StepSums> sums_;
  std::optional<HostCopy> numbers_;
  std::function<StepSums(const at::Tensor&)> unpack_;
  at::Tensor finite_, kept_rows_;
};

// Holds the bucket: gradient sums of all parameters, then the sums above. One thread at a time.
class GradientReducer {
 public:
  // Counts travel as numbers of the type in `options`: in float32 exact below 2^24 rows a batch.
  // `counts`: of the sizes that all steps have.
  GradientReducer(const std::vector<ParameterSpec>& specs, const StepCounts& counts,
                  const at::TensorOptions& options = at::kFloat);

  // Zeros, of these sizes.
  const StepCounts& NewCounts() const { return no_counts_; }

  // Where this rank puts the gradients of its loss SUM and, in place of statistics, those of its batch. After Reduce:
  // the gradient of the mean loss over all ranks, and the statistics averaged over kept rows.
  ParameterSet& gradients() { return gradients_; }
  const ParameterSet& gradients() const { return gradients_; }

  // Adds what gradients() holds, of `kept_rows` rows, to the parts of this rank's batch before it: gradients() is free
  // for the next part then, and Reduce takes all of them. Not called where a batch has one part.
  void AddPart(int64_t kept_rows);

  // Sums over ranks, then divides the gradients once by the global weight (not if that is 0). The result is equal
  // bit for bit on all ranks, so that each takes the same decision from it. A rank without kept rows joins with
  // zeros. Errors are the collective's.
  absl::StatusOr<GlobalSums> Reduce(const StepSums& local, Collective& collective);

 private:
  // The part of the bucket behind the gradients, as a tensor of the host.
  at::Tensor Pack(const StepSums& local) const;
  StepSums Unpack(const at::Tensor& sums) const;
  absl::StatusOr<GlobalSums> ReduceOnHost(const StepSums& local, Collective& collective);
  absl::StatusOr<GlobalSums> ReduceOnDevice(const StepSums& local, Collective& collective);
  // So that sums of them, divided by the sum of rows, are means over rows.
  void WeighStatistics(int64_t rows);

  const StepCounts no_counts_;
  at::Tensor bucket_;
  ParameterSet gradients_;
  at::Tensor parts_;  // sums; undefined until there was a part
  bool in_parts_ = false;
};

}  // namespace ham::trainer
