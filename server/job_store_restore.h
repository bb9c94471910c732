// What a restore changes in the store, so that nothing that still runs for the coordinator of before is current.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/store.h"

namespace ham::server {

// The rows that change, and an event for each job that had ranks. Workers get sessions, and jobs that have not ended
// attempts, kRestoreStep above those of before; jobs lose their ranks, and those at work become RECOVERING: they start
// again from their checkpoints. Pure.
Transaction RowsAfterRestore(const Store::Contents& contents, absl::Time backup_time, absl::Time now);

// Begins a new log epoch in the file and makes these changes; gives what it then holds, and in `started_again` the
// names of the jobs that were at work. No store may be open on it. Errors as JobStore::Open.
absl::StatusOr<Store::Contents> RestoreStore(const std::string& path, absl::Time backup_time, absl::Time now,
                                             std::vector<std::string>* started_again);

}  // namespace ham::server
