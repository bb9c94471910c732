// Accuracy on clean images and under suites of attacks, over all ranks.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/trainer/collective.h"
#include "worker/trainer/data/dataset.h"
#include "worker/trainer/network_passes.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// Rows by class, over all ranks; all inner vectors have one entry a class.
struct EvaluationCounts {
  std::vector<int64_t> rows;
  std::vector<int64_t> clean;                // classified right
  std::vector<std::vector<int64_t>> robust;  // for each suite: clean-right and unbroken by every attack and restart
  // [kPasses] images that took each, without padding.
  std::vector<int64_t> passes = std::vector<int64_t>(kPasses);
};

// InvalidArgument where a network of so many classes cannot be attacked by one of these. `field`: path of their list.
absl::Status CheckAttacks(const std::string& field, const std::vector<EvaluationAttack>& attacks, int64_t classes);

// Images `rows` of `data`; rank r takes entries r, r + world_size, ... Every attack works only on the rows that
// nothing before it in its suite has broken. The outcome of a row does not depend on world size or batches (on a
// device, but for rounding): see RowAttack. `tick` is called after each attack step. Ranks stay within a leg of an
// attack of each other, on a block of 128 rows on a host and 512 on a device, which must take no longer than the
// collective's patience(). Freezes the weights. Errors are the collective's and RowAttack's.
absl::StatusOr<EvaluationCounts> Evaluate(NetworkPasses& passes, const ParameterSet& weights, const ImageSet& data,
                                          const std::vector<uint32_t>& rows, const std::vector<AttackSuite>& suites,
                                          uint64_t seed, Collective& collective, const std::function<void()>& tick);

}  // namespace ham::trainer
