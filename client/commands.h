// The subcommands of hamctl. Each prints its result on standard output and returns the exit code; an error is returned,
// for main to say. One file each.
#pragma once

#include "absl/status/statusor.h"
#include "client/coordinator_client.h"
#include "client/exit_code.h"
#include "client/options.h"

namespace ham::client {

using Result = absl::StatusOr<ExitCode>;

Result Run(const GlobalOptions& global, const LoginOptions& options);
Result Run(const GlobalOptions& global, const SubmitOptions& options);
Result Run(const GlobalOptions& global, const ListOptions& options);
Result Run(const GlobalOptions& global, const GetOptions& options);
Result Run(const GlobalOptions& global, const WatchOptions& options);
Result Run(const GlobalOptions& global, const LogsOptions& options);
Result Run(const GlobalOptions& global, const CancelOptions& options);
Result Run(const GlobalOptions& global, const WorkersOptions& options);
Result Run(const GlobalOptions& global, const VersionOptions& options);
Result Run(const GlobalOptions& global, const DebugBundleOptions& options);
Result Run(const GlobalOptions& global, const EvalGetOptions& options);
Result Run(const GlobalOptions& global, const EvalShowOptions& options);
Result Run(const GlobalOptions& global, const EvalDiffOptions& options);
Result Run(const GlobalOptions& global, const EvalExportOptions& options);
Result Run(const GlobalOptions& global, const EvalVerifyOptions& options);

// What the last login wrote. InvalidArgument without one.
absl::StatusOr<ConnectionConfig> ReadLogin(const GlobalOptions& global);

// The coordinator of the last login. As ReadLogin.
absl::StatusOr<CoordinatorClient> Connect(const GlobalOptions& global);

// A command of this program about a job, to be pasted into a shell: "hamctl watch j1".
std::string CommandOf(const GlobalOptions& global, const std::string& subcommand, const std::string& job);

// Resource name of what a user calls a job.
std::string JobName(const std::string& job);

// Writes to standard output and flushes. An error of that ends the program with kFailed and a sentence; a closed pipe
// without one.
void Print(const std::string& text);

// Says on standard error that a followed stream was lost.
void SayLost(const absl::Status& status);

// What `hamctl watch` does, for a job that exists.
Result Watch(const GlobalOptions& global, CoordinatorClient* client, const WatchOptions& options);

}  // namespace ham::client
