// Moving the kept rows of a global batch between ranks, so that all have as much to do in what is left of the attack
// and in the training pass.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "worker/trainer/batch.h"
#include "worker/trainer/boundary_trace.h"
#include "worker/trainer/collective.h"

namespace ham::trainer {

// How many rows each rank has afterwards: all rows, dealt out to within one. Who has most now keeps one more, of equals
// the lowest rank, so that as few rows move as can. Pure.
std::vector<int64_t> EvenShares(const std::vector<int64_t>& rows_by_rank);

// Kept rows of one rank in the middle of the attack.
struct RowsUnderAttack {
  Batch clean;
  at::Tensor x;  // x_M, as clean.x
  BoundaryTrace trace;
};

// Gives this rank its share of all ranks' rows. The last rows of ranks that have too many go to ranks that have too
// few, both in the order of ranks; afterwards all have theirs in the order of ids. Images, labels and traces are bit
// for bit what they were. Two all-gathers: of the counts, and of the moved rows, padded to the rank that gives most;
// one where none moves. All ranks call it. Errors are the collective's. classes: K.
absl::Status BalanceRows(int64_t classes, Collective& collective, RowsUnderAttack* rows);

}  // namespace ham::trainer
