// The one rule for waiting between attempts, used by worker and client.
#pragma once

#include <algorithm>

#include "absl/time/time.h"

namespace ham {

// Waits grow from `initial` by `factor` to `cap`, each spread by +-`jitter` of itself. Not thread-safe.
class Backoff {
 public:
  struct Options {
    absl::Duration initial = absl::Milliseconds(200);
    absl::Duration cap = absl::Seconds(5);
    double factor = 2.0;  // >= 1
    double jitter = 0.2;  // [0, 1]
  };

  Backoff() : Backoff(Options{}) {}
  explicit Backoff(const Options& options) : options_(options), next_(options.initial) {}

  // The next wait. `unit_random` in [0, 1) comes from the caller.
  absl::Duration Next(double unit_random) {
    const absl::Duration base = next_;
    next_ = std::min(options_.cap, next_ * options_.factor);
    return base * (1.0 + options_.jitter * (2.0 * unit_random - 1.0));
  }

  // After a success.
  void Reset() { next_ = options_.initial; }

 private:
  Options options_;
  absl::Duration next_;
};

}  // namespace ham
