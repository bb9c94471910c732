// Walks, and how one that fails is made short.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "tests/simulation/coverage.h"
#include "tests/simulation/promises.h"
#include "tests/simulation/world.h"

namespace ham::simulation {

struct Walk {
  std::optional<Violation> violation;  // the first
  int64_t events = 0;
  absl::Duration time;
  uint64_t digest = 0;
  Coverage coverage;
  std::deque<std::string> trace;
};

// So many events, or so much time, with faults; then calm until all jobs have ended.
Walk RunWalk(const WorldOptions& options, int64_t events, absl::Duration time = absl::InfiniteDuration());

// `failing` broke a promise within `most` events of faults, or in the calm after them. Looks for less that breaks the
// same promise: kinds of faults left out one by one, then agents, then all faults before an event. Deterministic; runs
// the walk up to about 60 times. The report names what is left and what happened last.
std::string Shrink(const WorldOptions& failing, int64_t most, const Violation& violation);

}  // namespace ham::simulation
