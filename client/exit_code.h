// What hamctl tells the shell.
#pragma once

#include "absl/status/status.h"
#include "ham/v1/job.pb.h"

namespace ham::client {

enum ExitCode {
  kDone = 0,         // for a watched job: it succeeded
  kFailed = 1,       // job failed or was cancelled; any error not named below
  kUsage = 2,        // flags, spec, or no login
  kUnreachable = 3,  // no coordinator answered
  kTimeout = 4,
  kNotFound = 5,
  kNotAllowed = 6,
  kQuota = 7,
  kInterrupted = 130,
};

// Of an error that a command returned; CANCELLED means that the user interrupted it.
ExitCode ExitCodeOf(const absl::Status& status);
// Of a job that was followed to its end.
ExitCode ExitCodeOf(ham::v1::Job::State state);

}  // namespace ham::client
