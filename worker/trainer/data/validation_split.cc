#include "worker/trainer/data/validation_split.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <map>
#include <utility>

#include "worker/trainer/counter_rng.h"

namespace ham::trainer {

ValidationSplit SplitForValidation(std::span<const int64_t> labels, double share) {
  assert(share >= 0 && share < 1);
  std::map<int64_t, std::vector<std::pair<uint64_t, uint32_t>>> classes;  // random number and row
  for (size_t row = 0; row < labels.size(); ++row) {
    const auto sample = static_cast<uint32_t>(row);
    const auto words = RandomWords({.seed = 0, .purpose = RandomPurpose::kValidationSplit, .sample = sample}, 0);
    classes[labels[row]].emplace_back(uint64_t{words[0]} << 32 | words[1], sample);
  }
  ValidationSplit out;
  for (auto& [label, rows] : classes) {
    std::sort(rows.begin(), rows.end());
    const auto size = static_cast<int64_t>(rows.size());
    const int64_t least = share > 0 ? 1 : 0;
    const int64_t held_out = std::min(std::max(std::lround(share * static_cast<double>(size)), least), size - 1);
    for (int64_t i = 0; i < size; ++i) (i < held_out ? out.validation : out.train).push_back(rows[i].second);
  }
  std::sort(out.train.begin(), out.train.end());
  std::sort(out.validation.begin(), out.validation.end());
  return out;
}

}  // namespace ham::trainer
