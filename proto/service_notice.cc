#include "proto/service_notice.h"

#include <systemd/sd-daemon.h>

#include <cstdint>

namespace ham {

// A manager that does not hear is no error of ours.
void NotifyReady() { static_cast<void>(sd_notify(0, "READY=1")); }
void NotifyStopping() { static_cast<void>(sd_notify(0, "STOPPING=1")); }
void NotifyAlive() { static_cast<void>(sd_notify(0, "WATCHDOG=1")); }

absl::Duration WatchdogPeriod() {
  uint64_t microseconds = 0;
  if (sd_watchdog_enabled(0, &microseconds) <= 0) return absl::InfiniteDuration();
  return absl::Microseconds(microseconds) / 4;
}

}  // namespace ham
