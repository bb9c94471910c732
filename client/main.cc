// hamctl: one command, one exit code.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <variant>

#include "client/commands.h"
#include "client/screen.h"
#include "client/text.h"
#include "proto/rpc_status.h"

namespace ham::client {
namespace {

std::string DefaultConfig() {
  if (const std::string given = EnvironmentVariable("HAM_CONFIG"); !given.empty()) return given;
  const std::string folder = EnvironmentVariable("XDG_CONFIG_HOME");
  return (folder.empty() ? EnvironmentVariable("HOME") + "/.config" : folder) + "/ham/config.json";
}

void Say(const std::string& sentence) { std::fprintf(stderr, "hamctl: %s\n", Printable(sentence).c_str()); }

ExitCode Fail(const absl::Status& status) {
  const std::vector<FieldViolation> violations = FieldViolationsOf(status);
  if (violations.empty()) Say(std::string(status.message()));
  for (const FieldViolation& violation : violations) Say(violation.description);
  return ExitCodeOf(status);
}

int Main(int argc, char** argv) {
  const CommandLine line = ParseCommandLine(argc, argv, DefaultConfig());
  if (line.exit_code.has_value()) return *line.exit_code;
  const Result result = std::visit([&](const auto& options) { return Run(line.global, options); }, line.command);
  return result.ok() ? *result : Fail(result.status());
}

}  // namespace
}  // namespace ham::client

int main(int argc, char** argv) {
  setenv("GRPC_VERBOSITY", "NONE", 0);  // what it says about itself is said by our errors
  try {
    return ham::client::Main(argc, argv);
  } catch (const std::exception& error) {  // of a library; none is expected
    ham::client::Say(error.what());
    return ham::client::kFailed;
  }
}
