#include "worker/agent/options.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "proto/flags.h"
#include "proto/version.h"
#include "proto/worker_rules.h"
#include "worker/agent/join.h"

namespace ham::agent {
namespace {

std::string HostName() {
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) return "";
  return host.data();
}

std::string TrainerBesideThis() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "ham-trainer" : (self.parent_path() / "ham-trainer").string();
}

absl::Duration ParseGiveUpAfter(const std::string& text) {
  absl::Duration duration;
  if (absl::ParseDuration(text, &duration) && duration >= absl::Seconds(1)) return duration;
  throw CLI::ValidationError(
      absl::StrCat("--give-up-after \"", text, "\" must be a duration of at least 1s, for example 30s or 10m"));
}

// For a person's own machine, by the XDG base directories; "" where there is no home.
std::string DefaultStateDirectory() {
  const char* const state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && *state != '\0') return absl::StrCat(state, "/ham/worker");
  const char* const home = std::getenv("HOME");
  return home == nullptr || *home == '\0' ? "" : absl::StrCat(home, "/.local/state/ham/worker");
}

void Complete(AgentOptions* options) {
  if (!options->join_address.empty()) {
    if (!options->join.empty()) throw CLI::ValidationError("--join and the command join exclude each other");
    const absl::Status status = ParseJoinAddress(options->join_address).status();
    if (!status.ok()) throw CLI::ValidationError(std::string(status.message()));
    if (options->state_dir.empty()) options->state_dir = DefaultStateDirectory();
    if (options->state_dir.empty()) throw CLI::ValidationError("there is no home directory: give --state-dir");
  }
  if (options->name.empty()) {
    options->name = WorkerNameFrom(HostName());
    if (options->name.empty()) throw CLI::ValidationError("the host has no usable name: give one with --name");
  } else if (!IsWorkerName(options->name)) {
    throw CLI::ValidationError(absl::StrCat("--name \"", options->name,
                                            "\" must be 1 to 63 of a-z, 0-9 and -, with a letter or digit first and "
                                            "last"));
  }
  if (options->trainer.empty()) options->trainer = TrainerBesideThis();
}

}  // namespace

std::string WorkerNameFrom(const std::string& host) {
  std::string name = absl::AsciiStrToLower(host.substr(0, host.find('.')));
  if (name.size() > kMostWorkerNameBytes) name.resize(kMostWorkerNameBytes);
  for (char& c : name) {
    if (!IsWorkerNameCharacter(c)) c = '-';
  }
  const size_t first = name.find_first_not_of('-');
  if (first == std::string::npos) return "";
  return name.substr(first, name.find_last_not_of('-') - first + 1);
}

CommandLine ParseCommandLine(int argc, const char* const* argv) {
  CommandLine line;
  AgentOptions& options = line.options;
  CLI::App app("Worker of ham: joins a coordinator and runs the ranks that it places here.", "ham-worker");
  app.set_version_flag("--version", absl::StrCat("ham-worker ", kVersion, " (build ", BuildId(), ")"));
  CLI::Option* const join =
      app.add_option("--join", options.join, "File worker-join from the coordinator's state directory")->required();
  app.add_option("--name", options.name, "Name of this worker, unique in the cluster (default: the host's)");
  CLI::Option* const state_dir =
      app.add_option("--state-dir", options.state_dir, "Directory of id, unsent records and work; created when missing")
          ->required();
  app.add_option("--slots", options.slots,
                 "Ranks that may run on CPUs at the same time (default: one a core, none where there are GPUs)")
      ->check(CLI::Range(0, kMostSlots));
  app.add_option("--data-root", options.data_root, "Folder with the data sets")->capture_default_str();
  app.add_option("--trainer", options.trainer,
                 "Trainer program (default: ham-trainer beside this one); that of GPUs is its name and -cuda");
  app.add_option(
      "--data-interface", options.data_interface,
      "Network interface for traffic between ranks, which is not encrypted (default: that towards the coordinator)");
  app.add_option_function<std::string>(
      "--give-up-after", [&options](const std::string& text) { options.give_up_after = ParseGiveUpAfter(text); },
      "End with an error when no coordinator was reached for this long and no rank runs (default: never)");
  app.add_flag("--no-gpu", options.no_gpu, "Leave GPUs alone (else: those in CUDA_VISIBLE_DEVICES where it is set)");
  app.add_flag("--allow-shared-gpus", options.allow_shared_gpus,
               "Use GPUs also while others do, for example to draw a screen");
  app.add_flag("--no-pinning", options.no_pinning,
               "Let ranks of a gang run on any CPU, not each slot on an equal share of its own");
  AddLogFormat(&app, &options.log_format);
  CLI::App* const command =
      app.add_subcommand("join", "Join with what `ham-coordinator join-command` prints, instead of with a file");
  command->fallthrough();
  command->add_option("TOKEN@HOST", options.join_address, "The token, and where the coordinator is; its port is 7480")
      ->required();
  command->parse_complete_callback([join, state_dir] {
    join->required(false);
    state_dir->required(false);
  });
  AddConfigFile(&app);
  try {
    app.parse(argc, argv);
    Complete(&options);
    line.command = Command::kServe;
  } catch (const CLI::ParseError& error) {
    line.exit_code = SayParseError(app, error);
  }
  return line;
}

}  // namespace ham::agent
