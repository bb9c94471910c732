// Time between two beats of a worker, as recorded.
#pragma once

#include <array>
#include <cstddef>

#include "absl/time/time.h"
#include "tests/simulation/random.h"

namespace ham::simulation {

struct BeatGap {
  double share;  // of the gaps that are not longer
  double seconds;
};

// 592 gaps of a worker that trained on 2 cores at a load of 27 (compilers, tests, 8 weak busy processes), heartbeat 1
// s: record_beat_gaps.py --minutes 10 --busy 8.
inline constexpr std::array<BeatGap, 13> kBeatGaps = {{{0, 0.0168},
                                                       {0.001, 0.1802},
                                                       {0.01, 0.9854},
                                                       {0.05, 0.9954},
                                                       {0.1, 0.9975},
                                                       {0.25, 1.0000},
                                                       {0.5, 1.0001},
                                                       {0.75, 1.0017},
                                                       {0.9, 1.0042},
                                                       {0.95, 1.0071},
                                                       {0.99, 1.0144},
                                                       {0.999, 1.0241},
                                                       {1, 1.0373}}};

// Drawn from the table, straight lines between its points.
inline absl::Duration DrawBeatGap(Random& random) {
  const double share = random.Unit();
  size_t i = 1;
  while (i + 1 < kBeatGaps.size() && kBeatGaps[i].share < share) ++i;
  const BeatGap& low = kBeatGaps[i - 1];
  const BeatGap& high = kBeatGaps[i];
  const double part = (share - low.share) / (high.share - low.share);
  return absl::Microseconds(static_cast<int64_t>(1e6 * (low.seconds + part * (high.seconds - low.seconds))));
}

}  // namespace ham::simulation
