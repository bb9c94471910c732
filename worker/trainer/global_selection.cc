#include "worker/trainer/global_selection.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <set>

namespace ham::trainer {

absl::StatusOr<std::vector<uint8_t>> SelectLargest(const std::vector<double>& values, const std::vector<uint32_t>& ids,
                                                   const std::vector<uint8_t>& candidate, double share,
                                                   int64_t capacity, Collective& collective) {
  struct Entry {
    double value = 0;
    uint32_t id = 0;
    uint32_t candidate = 0;
  };
  assert(static_cast<int64_t>(ids.size()) <= capacity);
  std::vector<Entry> own(capacity), all(capacity * collective.world_size());
  for (size_t row = 0; row < ids.size(); ++row) {
    const double value = std::isnan(values[row]) ? -std::numeric_limits<double>::infinity() : values[row];
    own[row] = {value, ids[row], candidate[row]};
  }
  if (absl::Status status = collective.AllGather(own.data(), own.size() * sizeof(Entry), all.data()); !status.ok()) {
    return status;
  }
  std::erase_if(all, [](const Entry& entry) { return entry.candidate == 0; });
  std::sort(all.begin(), all.end(),
            [](const Entry& a, const Entry& b) { return a.value != b.value ? a.value > b.value : a.id < b.id; });
  all.resize(static_cast<size_t>(std::floor(share * static_cast<double>(all.size()))));
  std::set<uint32_t> chosen;
  for (const Entry& entry : all) chosen.insert(entry.id);
  std::vector<uint8_t> out(ids.size());
  for (size_t row = 0; row < ids.size(); ++row) out[row] = candidate[row] != 0 && chosen.contains(ids[row]);
  return out;
}

}  // namespace ham::trainer
