#include "client/commands.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "client/text.h"

namespace ham::client {

absl::StatusOr<ConnectionConfig> ReadLogin(const GlobalOptions& global) {
  absl::StatusOr<ConnectionConfig> config = ReadConnectionConfig(global.config);
  if (absl::IsNotFound(config.status())) {
    return absl::InvalidArgumentError(absl::StrCat("no login at ", global.config,
                                                   ": run `hamctl login --bootstrap FILE` with the file bootstrap from "
                                                   "the coordinator's state directory"));
  }
  return config;
}

absl::StatusOr<CoordinatorClient> Connect(const GlobalOptions& global) {
  const absl::StatusOr<ConnectionConfig> config = ReadLogin(global);
  if (!config.ok()) return config.status();
  return CoordinatorClient(*config, global.timeout);
}

std::string JobName(const std::string& job) {
  return job.find('/') == std::string::npos ? absl::StrCat("projects/default/jobs/", job) : job;
}

std::string CommandOf(const GlobalOptions& global, const std::string& subcommand, const std::string& job) {
  std::string command = ShellWord(global.program);
  if (global.config_given) absl::StrAppend(&command, " --config ", ShellWord(global.config));
  return absl::StrCat(command, " ", subcommand, " ", ShellWord(ShortName(job)));
}

void Print(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) return;
  if (errno != EPIPE) std::fprintf(stderr, "hamctl: cannot write to standard output: %s\n", std::strerror(errno));
  std::_Exit(kFailed);
}

void SayLost(const absl::Status& status) {
  std::fprintf(stderr, "hamctl: connection lost (%s); trying again\n",
               Printable(std::string(status.message())).c_str());
}

}  // namespace ham::client
