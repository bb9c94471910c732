// Chance of a simulation: fast, and the same on every machine.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"

namespace ham::simulation {

// splitmix64 (Steele, Lea, Flood 2014). Not thread-safe.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  // A stream of its own for each `use`, so that what one use draws does not change what another one gets.
  Random(uint64_t seed, uint64_t use) : state_(seed ^ (use + 1) * 0xd1342543de82ef95) { Next(); }

  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  double Unit() { return static_cast<double>(Next() >> 11) * 0x1p-53; }  // in [0, 1)
  bool Chance(double probability) { return Unit() < probability; }
  size_t Below(size_t bound) { return Next() % bound; }
  absl::Duration Between(absl::Duration low, absl::Duration high) {
    const int64_t from = absl::ToInt64Microseconds(low);
    const int64_t span = absl::ToInt64Microseconds(high) - from;
    return absl::Microseconds(from + static_cast<int64_t>(static_cast<double>(span) * Unit()));
  }

 private:
  uint64_t state_;
};

}  // namespace ham::simulation
