#include "worker/trainer/epoch_order.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "worker/trainer/counter_rng.h"

namespace ham::trainer {
namespace {

// `taken` numbers of [0, count) that `epoch` takes from the sequence of permutations, of which each epoch takes as
// many.
std::vector<uint32_t> TakeFromSequence(uint64_t seed, RandomPurpose purpose, int epoch, int64_t taken, int64_t count) {
  std::vector<uint32_t> out;
  out.reserve(taken);
  for (int64_t place = (epoch - 1) * taken; place < epoch * taken;) {
    const auto permutation = Permutation(seed, purpose, static_cast<uint32_t>(place / count + 1), count);
    const int64_t begin = place % count, end = std::min(count, begin + epoch * taken - place);
    out.insert(out.end(), permutation.begin() + begin, permutation.begin() + end);
    place += end - begin;
  }
  return out;
}

// The rows of an epoch of `places.size()` rows; those of a batch are sorted by their places.
std::vector<uint32_t> Mix(const std::vector<uint32_t>& own_order, const std::vector<uint32_t>& extra_order,
                          const std::vector<uint32_t>& places, const ExtraRows& extra, int64_t batch_size) {
  const auto rows = static_cast<int64_t>(places.size());
  std::vector<uint32_t> order;
  order.reserve(rows);
  auto next_own = own_order.begin(), next_extra = extra_order.begin();
  std::vector<std::pair<uint32_t, uint32_t>> batch;  // place and row
  for (int64_t position = 0; position < rows; position += batch_size) {
    const int64_t batch_rows = std::min(batch_size, rows - position);
    const int64_t extra_rows = ExtraRowsOf(extra.share, batch_rows);
    batch.clear();
    for (int64_t i = 0; i < batch_rows; ++i) {
      batch.emplace_back(places[position + i], i < extra_rows ? extra.first + *next_extra++ : *next_own++);
    }
    std::sort(batch.begin(), batch.end());
    for (const auto& [place, row] : batch) order.push_back(row);
  }
  return order;
}

}  // namespace

int64_t ExtraRowsOf(double share, int64_t batch_rows) { return std::lround(share * static_cast<double>(batch_rows)); }

std::vector<uint32_t> EpochOrder(uint64_t seed, int epoch, const std::vector<uint32_t>& own, const ExtraRows& extra,
                                 int64_t batch_size) {
  const auto rows = static_cast<int64_t>(own.size());
  const int64_t extra_taken =
      rows / batch_size * ExtraRowsOf(extra.share, batch_size) + ExtraRowsOf(extra.share, rows % batch_size);
  std::vector<uint32_t> order = TakeFromSequence(seed, RandomPurpose::kEpochOrder, epoch, rows - extra_taken, rows);
  for (uint32_t& row : order) row = own[row];
  if (extra_taken == 0) return order;
  const auto extra_order = TakeFromSequence(seed, RandomPurpose::kExtraOrder, epoch, extra_taken, extra.count);
  const auto places = Permutation(seed, RandomPurpose::kExtraPlace, static_cast<uint32_t>(epoch), rows);
  return Mix(order, extra_order, places, extra, batch_size);
}

}  // namespace ham::trainer
