// Runs a fuzz program's first inputs as a test, whole, cut and with single bytes changed; the fuzzer goes further.
#include <algorithm>
#include <cstdio>
#include <string>

#include "tests/fuzz/fuzz.h"

int main() {
  constexpr size_t kPlaces = 150;  // of each seed
  size_t inputs = 0;
  for (const std::string& seed : ham::fuzz::Seeds()) {
    ham::fuzz::TryInput(seed);
    const size_t step = std::max<size_t>(1, seed.size() / kPlaces);
    for (size_t i = 0; i < seed.size(); i += step, inputs += 2) {
      ham::fuzz::TryInput(seed.substr(0, i));
      std::string changed = seed;
      changed[i] = static_cast<char>(changed[i] ^ (i % 2 == 0 ? 0xff : 0x10));
      ham::fuzz::TryInput(changed);
    }
  }
  std::printf("%zu inputs\n", inputs);
}
