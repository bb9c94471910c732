#include "worker/trainer/counter_rng.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

namespace ham::trainer {
namespace {

constexpr float kUnitScale = 1.0f / (1 << 24);

float Unit(uint32_t word) { return static_cast<float>(word >> 8) * kUnitScale; }

}  // namespace

std::array<uint32_t, 4> RandomWords(const RandomKey& key, uint32_t block) {
  std::array<uint32_t, 4> counter = {block, key.sample, key.epoch,
                                     (static_cast<uint32_t>(key.purpose) << 24) | (key.step & 0xffffffu)};
  uint32_t key0 = static_cast<uint32_t>(key.seed);
  uint32_t key1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

float RandomUnit(const RandomKey& key) { return Unit(RandomWords(key, 0)[0]); }

int64_t RandomBelow(uint32_t word, int64_t count) {
  return static_cast<int64_t>(uint64_t{word} * static_cast<uint64_t>(count) >> 32);
}

void FillUniform(const RandomKey& key, float low, float high, int64_t count, float* out) {
  const float width = high - low;
  for (int64_t begin = 0; begin < count; begin += 4) {
    const auto words = RandomWords(key, static_cast<uint32_t>(begin / 4));
    const int64_t n = std::min<int64_t>(4, count - begin);
    for (int64_t i = 0; i < n; ++i) out[begin + i] = low + width * Unit(words[i]);
  }
}

void FillNormal(const RandomKey& key, float standard_deviation, int64_t count, float* out) {
  for (int64_t begin = 0; begin < count; begin += 4) {
    const auto words = RandomWords(key, static_cast<uint32_t>(begin / 4));
    std::array<double, 4> pair;
    for (int i = 0; i < 4; i += 2) {
      const double radius = std::sqrt(-2 * std::log(1.0 - Unit(words[i])));  // of (0, 1]: no infinity
      const double angle = 2 * std::numbers::pi * Unit(words[i + 1]);
      pair[i] = radius * std::cos(angle);
      pair[i + 1] = radius * std::sin(angle);
    }
    const int64_t n = std::min<int64_t>(4, count - begin);
    for (int64_t i = 0; i < n; ++i) out[begin + i] = static_cast<float>(standard_deviation * pair[i]);
  }
}

std::vector<uint32_t> Permutation(uint64_t seed, RandomPurpose purpose, uint32_t number, int64_t rows) {
  std::vector<std::pair<uint64_t, uint32_t>> keyed(rows);
  for (int64_t row = 0; row < rows; ++row) {
    const auto words =
        RandomWords({.seed = seed, .purpose = purpose, .epoch = number, .sample = static_cast<uint32_t>(row)}, 0);
    keyed[row] = {uint64_t{words[0]} << 32 | words[1], static_cast<uint32_t>(row)};
  }
  std::sort(keyed.begin(), keyed.end());
  std::vector<uint32_t> order(rows);
  for (int64_t i = 0; i < rows; ++i) order[i] = keyed[i].second;
  return order;
}

}  // namespace ham::trainer
