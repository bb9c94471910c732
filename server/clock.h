// Where the time comes from; passed in, so that tests can set it.
#pragma once

#include <chrono>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/coordinator.h"

namespace ham::server {

// Any thread.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual Now Read() const = 0;
};

class SystemClock : public Clock {
 public:
  Now Read() const override { return {absl::FromChrono(std::chrono::steady_clock::now() - start_), absl::Now()}; }

 private:
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace ham::server
