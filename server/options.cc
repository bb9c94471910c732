#include "server/options.h"

#include <CLI/CLI.hpp>
#include <limits>

#include "absl/strings/str_cat.h"
#include "proto/channel.h"
#include "proto/flags.h"
#include "proto/version.h"

namespace ham::server {
namespace {

// A flag of the form 15s, 500ms, 1m.
void AddDuration(CLI::App* app, const std::string& name, const std::string& help, absl::Duration* value) {
  const auto parse = [value](const std::string& text) {
    if (!absl::ParseDuration(text, value)) {
      throw CLI::ValidationError(absl::StrCat("\"", text, "\" is no duration; write for example 15s, 500ms or 1m"));
    }
  };
  app->add_option_function<std::string>(name, parse, help)->default_str(absl::FormatDuration(*value));
}

// A command that does something else than serve.
CLI::App* AddCommand(CLI::App* app, const std::string& name, const std::string& help, ServerOptions* options) {
  CLI::App* command = app->add_subcommand(name, help);
  command->add_option("--state-dir", options->state_dir, "Directory of the coordinator");
  command->parse_complete_callback([app] { app->get_option("--state-dir")->required(false); });
  return command;
}

Command CommandOf(const CLI::App& app) {
  static constexpr std::pair<const char*, Command> kCommands[] = {{"reset-admin", Command::kResetAdmin},
                                                                  {"join-command", Command::kJoinCommand},
                                                                  {"backup", Command::kBackup},
                                                                  {"restore", Command::kRestore},
                                                                  {"check", Command::kCheck}};
  for (const auto& [name, command] : kCommands) {
    if (app.got_subcommand(name)) return command;
  }
  return Command::kServe;
}

}  // namespace

absl::Status CheckOptions(const ServerOptions& options) {
  if (options.lease < absl::Seconds(1) || options.lease > absl::Hours(1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--lease ", absl::FormatDuration(options.lease), " is out of range: it must lie in 1s to 1h"));
  }
  if (options.heartbeat < absl::Milliseconds(10) || options.heartbeat * 3 > options.lease) {
    return absl::InvalidArgumentError(absl::StrCat("--heartbeat ", absl::FormatDuration(options.heartbeat),
                                                   " is out of range: it must lie in 10ms to a third of --lease (",
                                                   absl::FormatDuration(options.lease / 3), ")"));
  }
  if (options.hang_bound < absl::Seconds(1) || options.hang_bound > absl::Hours(1)) {
    return absl::InvalidArgumentError(absl::StrCat("--hang-bound ", absl::FormatDuration(options.hang_bound),
                                                   " is out of range: it must lie in 1s to 1h"));
  }
  if (options.insecure && !IsLoopback(options.listen)) {
    return absl::InvalidArgumentError(absl::StrCat("--insecure is allowed on loopback addresses only, and --listen is ",
                                                   options.listen, ": leave --insecure out"));
  }
  for (const std::string& name : options.advertise) {
    if (!options.insecure || IsLoopback(name)) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "--insecure is allowed on loopback addresses only, and --advertise is ", name, ": leave one of them out"));
  }
  return absl::OkStatus();
}

CommandLine ParseCommandLine(int argc, const char* const* argv) {
  CommandLine line;
  ServerOptions& options = line.options;
  CLI::App app("Coordinator of ham: accepts jobs, places them on workers, keeps their logs.", "ham-coordinator");
  app.set_version_flag("--version", absl::StrCat("ham-coordinator ", kVersion, " (build ", BuildId(), ")"));
  app.add_option("--state-dir", options.state_dir,
                 "Directory of the database, artifacts, certificates and bootstrap files; created when missing")
      ->required();
  app.add_option("--listen", options.listen, "HOST:PORT for clients and workers; port 0 takes a free one")
      ->capture_default_str();
  app.add_option("--metrics-listen", options.metrics_listen, "HOST:PORT of Prometheus /metrics; empty = off")
      ->capture_default_str()
      ->expected(1);
  app.add_option("--advertise", options.advertise,
                 "Name or address by which others reach this host (repeatable): written to the certificate and to the "
                 "bootstrap files");
  app.add_flag("--insecure", options.insecure, "No TLS, loopback addresses only; tokens are still asked for");
  AddDuration(&app, "--lease", "Silence after which a worker is taken for lost [1s to 1h]", &options.lease);
  AddDuration(&app, "--heartbeat", "Between two beats of a worker [10ms to a third of the lease]", &options.heartbeat);
  AddDuration(
      &app, "--hang-bound",
      "Silence of a rank after which it is stuck, while no usual silence of it is known; then five of those, half of "
      "this at least [1s to 1h]",
      &options.hang_bound);
  app.add_option("--port-file", options.port_file, "Write {\"listen\",\"metrics\"} with the real ports to FILE");
  AddLogFormat(&app, &options.log_format);
  AddConfigFile(&app);
  app.add_option("--keep-checkpoints", options.keep_checkpoints,
                 "Checkpoints kept of each job; older ones go once a newer one is committed")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app.add_option(
         "--artifact-quota", options.artifact_quota,
         "Most bytes of checkpoints, weights and records, as 50GiB or 500MB; uploads beyond it are refused, and "
         "training goes on; 0 = no bound")
      ->capture_default_str()
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->check(CLI::Range(int64_t{0}, std::numeric_limits<int64_t>::max()));
  AddCommand(&app, "reset-admin", "Make a new admin token; run it while the coordinator is down", &options);
  AddCommand(&app, "join-command", "Print the line that makes another host a worker; it holds the worker secret",
             &options);
  AddCommand(&app, "backup", "Copy the state directory, also while the coordinator runs", &options)
      ->add_option("DIRECTORY", line.backup, "Where to; must be empty or new")
      ->required();
  AddCommand(&app, "restore", "Make a state directory from a backup", &options)
      ->add_option("--from", line.backup, "Directory of the backup")
      ->required();
  AddCommand(&app, "check",
             "Read everything in the state directory and say what is damaged; run it while the "
             "coordinator is down",
             &options);
  app.require_subcommand(0, 1);
  try {
    app.parse(argc, argv);
    line.command = CommandOf(app);
    if (options.state_dir.empty()) throw CLI::RequiredError("--state-dir");
    if (const absl::Status status = CheckOptions(options); !status.ok()) {
      throw CLI::ValidationError(std::string(status.message()));
    }
  } catch (const CLI::ParseError& error) {
    line.command = Command::kExit;
    line.exit_code = SayParseError(app, error);
  }
  return line;
}

}  // namespace ham::server
