// Rows of a training set that are held out: checkpoints are chosen on them, never on the test set.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ham::trainer {

// Row numbers of the data set, ascending; together every row once.
struct ValidationSplit {
  std::vector<uint32_t> train;
  std::vector<uint32_t> validation;
};

// Holds out `share`, in [0, 1), of each class: round(share * rows of the class) rows, but at least one where share > 0
// and the class has two rows or more, and never all of them. The choice depends on the labels and the share only, not
// on a job's seed, so that jobs that share a data set share its split; a larger share holds out the same rows and
// more. Pure; safe from any thread.
ValidationSplit SplitForValidation(std::span<const int64_t> labels, double share);

}  // namespace ham::trainer
