// Intervals of 95 %, and the resamples that some of them are made of. Pure; the same numbers on every platform.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace ham {

struct Interval {
  double low = 0;
  double high = 0;
};

// Wilson's, of a proportion. NaN for 0 of 0.
Interval WilsonInterval(int64_t part, int64_t whole);

// From the smallest value with at least 2.5 % of all at or below it to the smallest with 97.5 %. NaN values are left
// out; without any other the interval is NaN.
Interval PercentileInterval(std::vector<double> values);

// Draws rows of a class with replacement. Only how many of each kind come is asked, so that is all that is drawn: the
// outcome has the distribution of a resample of images, but for 2^-32 in the probability of a kind. A stream of numbers
// that depends on the seed and on what was drawn before.
class Resampler {
 public:
  explicit Resampler(uint64_t seed) : state_(Mixed(seed)) {}

  // As many rows as `counts` has in all, at most 2^31; `counts` says how many there are of each kind.
  template <size_t kKinds>
  std::array<int64_t, kKinds> Draw(const std::array<int64_t, kKinds>& counts) {
    static_assert(kKinds >= 2);
    uint64_t rows = 0;
    for (const int64_t count : counts) rows += static_cast<uint64_t>(count);
    if (rows == 0) return counts;
    // A 32-bit word is of kind k if it is below bounds[k] and not below the one before.
    std::array<uint64_t, kKinds - 1> bounds{}, below{};
    uint64_t sum = 0;
    for (size_t k = 0; k + 1 < kKinds; ++k) {
      sum += static_cast<uint64_t>(counts[k]);
      bounds[k] = (sum << 32) / rows;
    }
    const auto take = [&](uint64_t word) {
      for (size_t k = 0; k + 1 < kKinds; ++k) below[k] += word < bounds[k];
    };
    for (uint64_t i = 0; i + 1 < rows; i += 2) {
      const uint64_t words = Next();
      take(words & 0xffffffff);
      take(words >> 32);
    }
    if (rows % 2 == 1) take(Next() >> 32);
    std::array<int64_t, kKinds> drawn{};
    for (size_t k = 0; k + 1 < kKinds; ++k) drawn[k] = static_cast<int64_t>(below[k] - (k == 0 ? 0 : below[k - 1]));
    drawn[kKinds - 1] = static_cast<int64_t>(rows - below[kKinds - 2]);
    return drawn;
  }

 private:
  // SplitMix64 (Steele, Lea, Flood 2014).
  static uint64_t Mixed(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  uint64_t Next() { return Mixed(state_ += 0x9e3779b97f4a7c15); }

  uint64_t state_;
};

}  // namespace ham
