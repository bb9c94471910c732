// What a service manager (systemd, Type=notify) is told of this process. All does nothing where no manager asked for
// it. Any thread, as long as none changes the environment.
#pragma once

#include "absl/time/time.h"

namespace ham {

void NotifyReady();
void NotifyStopping();

// To be called at least every WatchdogPeriod(), by the thread that would be stuck.
void NotifyAlive();

// A quarter of what the manager waits before it ends this process, so that a late notice costs nothing; infinite where
// it does not watch.
absl::Duration WatchdogPeriod();

}  // namespace ham
