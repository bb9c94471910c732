// Choosing rows of the global batch by a value that each rank knows of its own rows only.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/trainer/collective.h"

namespace ham::trainer {

// Of the candidates on all ranks, the floor(share * their number) with the largest values; of equal values those with
// the lowest ids. Returns 1 for each row of this rank that is chosen. Does not depend on how rows lie on ranks.
//   values     one a row of this rank; NaN counts as the smallest
//   ids        row numbers in the data set; a row that is in the batch twice is chosen in both places or in none
//   candidate  1: may be chosen
//   capacity   the most rows that any rank has; the same on all
// One all-gather of 16 bytes a row. All ranks call it, also one without rows. Errors are the collective's.
absl::StatusOr<std::vector<uint8_t>> SelectLargest(const std::vector<double>& values, const std::vector<uint32_t>& ids,
                                                   const std::vector<uint8_t>& candidate, double share,
                                                   int64_t capacity, Collective& collective);

}  // namespace ham::trainer
