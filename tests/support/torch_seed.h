// LibTorch's generator in random tests.
#pragma once

#include <ATen/Context.h>

#include "tests/support/seed.h"

namespace ham::testing {

inline void SeedTorch() { at::manual_seed(TestSeed()); }

}  // namespace ham::testing
