// Which rows an epoch trains on, and in which order: a function of seed and epoch only, so that ranks agree and a
// resumed run goes on where it was. Pure; safe from any thread.
#pragma once

#include <cstdint>
#include <vector>

namespace ham::trainer {

// Rows [first, first + count) of the training set are extra data, which make up `share`, in [0, 1), of each batch.
struct ExtraRows {
  uint32_t first = 0;
  int64_t count = 0;
  double share = 0;
};

// How many rows of a batch of `batch_rows` are extra data.
int64_t ExtraRowsOf(double share, int64_t batch_rows);

// The rows that 1-based `epoch` takes, `batch_size` at a time; as many as `own` has, whatever the share, so that an
// epoch costs what it costs without extra data, and within a batch shuffled, so that each rank's part is mixed (both as
// in the samplers of Carmon et al. 2019 and those after them). Own rows and extra rows are each a sequence that goes on
// over the epochs, one permutation after another, so that all are seen equally often; the published samplers shuffle
// the own rows anew in each epoch and draw extra rows with replacement. Where one permutation ends and the next begins,
// a batch may hold a row twice. Without extra data an epoch is one permutation of `own`.
// extra.count >= ExtraRowsOf(extra.share, batch_size). Takes 0.1 s for a million extra rows.
std::vector<uint32_t> EpochOrder(uint64_t seed, int epoch, const std::vector<uint32_t>& own, const ExtraRows& extra,
                                 int64_t batch_size);

}  // namespace ham::trainer
