// Flags and subcommands of hamctl.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "ham/v1/job.pb.h"

namespace ham::client {

enum class OutputFormat { kTable, kJson, kYaml };

struct GlobalOptions {
  std::string program = "hamctl";              // as it was called
  std::string config;                          // file that `login` writes and the others read
  bool config_given = false;                   // by --config, so that a command for later must name it too
  absl::Duration timeout = absl::Seconds(10);  // of one call, with its retries
};

struct LoginOptions {
  std::string bootstrap;
  std::vector<std::string> endpoints;  // instead of those in the file
};
struct SubmitOptions {
  std::string file;              // "-": standard input
  std::vector<std::string> set;  // KEY=VALUE, in order
  std::map<std::string, std::string> labels;
  std::string request_id;  // "": a new one
  std::string weights;     // file that an evaluation needs; "": none to upload
  bool watch = false;
  absl::Duration max_wait = absl::InfiniteDuration();  // with watch
  bool dry_run = false;                                // print the spec with its defaults instead
  OutputFormat output = OutputFormat::kTable;
};
struct ListOptions {
  std::vector<ham::v1::Job::State> states;  // empty: all
  int limit = 50;
  OutputFormat output = OutputFormat::kTable;
};
struct GetOptions {
  std::string job;
  OutputFormat output = OutputFormat::kTable;
};
struct WatchOptions {
  std::string job;
  absl::Duration max_wait = absl::InfiniteDuration();
  OutputFormat output = OutputFormat::kTable;
};
struct LogsOptions {
  std::string job;
  bool follow = false;
  std::optional<int> rank;
};
struct CancelOptions {
  std::vector<std::string> jobs;
  OutputFormat output = OutputFormat::kTable;
};
struct WorkersOptions {
  OutputFormat output = OutputFormat::kTable;
};
struct VersionOptions {
  OutputFormat output = OutputFormat::kTable;
};
struct DebugBundleOptions {
  std::string file;              // to write; "": named by the time
  std::vector<std::string> job;  // empty: the newest
  int jobs = 20;                 // so many
  std::vector<std::string> add;  // files to take along
};
struct EvalGetOptions {
  std::string job;
  std::string record;                          // file to write; "": JOB.json
  std::optional<std::string> signed_by;        // public key that must have signed it
  OutputFormat output = OutputFormat::kTable;  // not kYaml
};
// Of records of evaluations: files, so that no coordinator is asked.
struct EvalShowOptions {
  std::string record;
  std::optional<std::string> signed_by;        // public key that must have signed every record
  OutputFormat output = OutputFormat::kTable;  // of all of these: not kYaml
};
struct EvalDiffOptions {
  std::string a, b;
  std::vector<std::string> also_a, also_b;  // of models from other seeds
  std::string validation_class;
  std::optional<std::string> signed_by;
  OutputFormat output = OutputFormat::kTable;
};
struct EvalVerifyOptions {
  std::string record;
  std::string weights;
  std::string trainer;            // program that attacks; "": the one beside hamctl
  std::vector<std::string> more;  // flags that it is handed as they are, with their values
  std::optional<std::string> signed_by;
};
struct EvalExportOptions {
  std::string record;
  bool robustbench = false;  // the one form there is, asked for by name
  // What a record does not know.
  std::string name, authors, link, venue;
  std::string architecture;  // "": as the record names the model
  bool additional_data = false;
  std::optional<std::string> signed_by;
};
using Command = std::variant<LoginOptions, SubmitOptions, ListOptions, GetOptions, WatchOptions, LogsOptions,
                             CancelOptions, WorkersOptions, VersionOptions, DebugBundleOptions, EvalGetOptions,
                             EvalShowOptions, EvalDiffOptions, EvalExportOptions, EvalVerifyOptions>;

struct CommandLine {
  std::optional<int> exit_code;  // help or version was printed (0), or a flag was wrong (2, said on stderr)
  GlobalOptions global;
  Command command;
};

// Reads the flags; prints help, version and usage errors itself. `default_config` is used without --config.
CommandLine ParseCommandLine(int argc, const char* const* argv, const std::string& default_config);

}  // namespace ham::client
