// The seed of a random test.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace ham::testing {

// HAM_SEED, or a new one; printed at once, so that a test that takes its process along leaves it behind.
inline uint64_t TestSeed() {
  const char* text = std::getenv("HAM_SEED");
  const uint64_t seed = text != nullptr ? std::strtoull(text, nullptr, 10) : std::random_device{}();
  std::printf("HAM_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  return seed;
}

}  // namespace ham::testing
