#include "client/options.h"

#include <CLI/CLI.hpp>
#include <iostream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/version.h"

namespace ham::client {
namespace {

using ham::v1::Job;

void AddDuration(CLI::App* app, const std::string& name, const std::string& help, absl::Duration* value) {
  const auto parse = [value](const std::string& text) {
    if (!absl::ParseDuration(text, value) || *value <= absl::ZeroDuration()) {
      throw CLI::ValidationError(
          absl::StrCat("\"", text, "\" is no duration above zero; write for example 15s, 500ms or 10m"));
    }
  };
  app->add_option_function<std::string>(name, parse, help)
      ->type_name("DURATION")
      ->default_str(*value == absl::InfiniteDuration() ? "none" : absl::FormatDuration(*value));
}

void AddMaxWait(CLI::App* app, absl::Duration* value) {
  AddDuration(app, "--max-wait", "Stop watching (exit code 4) when the job has not ended after this time", value);
}

void AddOutput(CLI::App* app, OutputFormat* output, bool yaml = true) {
  static const std::map<std::string, OutputFormat> kFormats = {
      {"table", OutputFormat::kTable}, {"json", OutputFormat::kJson}, {"yaml", OutputFormat::kYaml}};
  app->add_option_function<std::string>(
         "-o,--output", [output](const std::string& text) { *output = kFormats.at(text); },
         yaml ? "table, json or yaml" : "table or json")
      ->type_name("FORMAT")
      ->check(yaml ? CLI::IsMember({"table", "json", "yaml"}) : CLI::IsMember({"table", "json"}))
      ->default_str("table");
}

void AddJob(CLI::App* app, std::string* job) {
  app->add_option("JOB", *job, "Job: its id, or projects/PROJECT/jobs/ID")->required();
}

std::vector<std::string> StateNames() {
  std::vector<std::string> names;
  for (int i = Job::State_MIN; i <= Job::State_MAX; ++i) {
    if (Job::State_IsValid(i) && i != Job::STATE_UNSPECIFIED) names.push_back(Job::State_Name(i));
  }
  return names;
}

Job::State ParseState(const std::string& text) {
  Job::State state = Job::STATE_UNSPECIFIED;
  if (!Job::State_Parse(absl::AsciiStrToUpper(text), &state) || state == Job::STATE_UNSPECIFIED) {
    throw CLI::ValidationError(
        absl::StrCat("--state \"", text, "\" is unknown; allowed are ", absl::StrJoin(StateNames(), ", ")));
  }
  return state;
}

// The text before and after the first '='.
std::pair<std::string, std::string> KeyAndValue(const std::string& flag, const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw CLI::ValidationError(absl::StrCat(flag, " \"", text, "\" is not of the form KEY=VALUE"));
  }
  return {text.substr(0, equals), text.substr(equals + 1)};
}

// A subcommand whose options become the command when it is given. The callback runs after its options are read.
template <class Options>
CLI::App* AddCommand(CLI::App* app, CommandLine* line, Options* options, const std::string& name,
                     const std::string& help) {
  CLI::App* command = app->add_subcommand(name, help);
  command->fallthrough();
  command->callback([line, options] { line->command = *options; });
  return command;
}

struct AllOptions {
  LoginOptions login;
  SubmitOptions submit;
  ListOptions list;
  GetOptions get;
  WatchOptions watch;
  LogsOptions logs;
  CancelOptions cancel;
  WorkersOptions workers;
  VersionOptions version;
  DebugBundleOptions debug_bundle;
  EvalGetOptions eval_get;
  EvalShowOptions eval_show;
  EvalDiffOptions eval_diff;
  EvalExportOptions eval_export;
  EvalVerifyOptions eval_verify;
};

void AddLogin(CLI::App* app, CommandLine* line, LoginOptions* login) {
  CLI::App* command = AddCommand(app, line, login, "login", "Remember a coordinator and the token for it");
  command->add_option("--bootstrap", login->bootstrap, "File bootstrap from the coordinator's state directory")
      ->required();
  command->add_option("--endpoint", login->endpoints,
                      "HOST:PORT of the coordinator (repeatable), instead of those in the file");
}

void AddSubmit(CLI::App* app, CommandLine* line, SubmitOptions* submit) {
  CLI::App* command = AddCommand(app, line, submit, "submit", "Submit a job");
  command->add_option("FILE", submit->file, "Job spec in YAML or JSON; - reads standard input")->required();
  command
      ->add_option_function<std::vector<std::string>>(
          "--set",
          [submit](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) KeyAndValue("--set", text);
            submit->set = texts;
          },
          "Override a field of the spec, for example train.seed=1 (repeatable)")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command
      ->add_option_function<std::vector<std::string>>(
          "--label",
          [submit](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) submit->labels.insert(KeyAndValue("--label", text));
          },
          "Attach a label (repeatable)")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--request-id", submit->request_id,
                      "Submitting again with the same id gives the first job instead of a second one");
  command
      ->add_option("--weights", submit->weights,
                   "File of the network that an evaluation attacks (safetensors); the coordinator gets it")
      ->type_name("FILE");
  CLI::Option* dry_run = command->add_flag(
      "--dry-run", submit->dry_run,
      "Check the spec and print it with all its defaults, without a coordinator; as JSON it is what ham-trainer reads");
  command->add_flag("--watch", submit->watch, "Follow the job to its end, as `hamctl watch` does")->excludes(dry_run);
  AddMaxWait(command, &submit->max_wait);
  AddOutput(command, &submit->output);
}

void AddReading(CLI::App* app, CommandLine* line, AllOptions* all) {
  CLI::App* list = AddCommand(app, line, &all->list, "list", "List jobs, newest first");
  list->add_option_function<std::vector<std::string>>(
          "--state",
          [all](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) all->list.states.push_back(ParseState(text));
          },
          "Only jobs in this state (repeatable)")
      ->type_name("STATE")
      ->allow_extra_args(false);
  list->add_option("--limit", all->list.limit, "At most so many jobs")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  AddOutput(list, &all->list.output);

  CLI::App* get = AddCommand(app, line, &all->get, "get", "Show one job");
  AddJob(get, &all->get.job);
  AddOutput(get, &all->get.output);

  CLI::App* watch =
      AddCommand(app, line, &all->watch, "watch",
                 "Follow a job to its end: events and metrics, live in a terminal. Ctrl-C stops watching; "
                 "the job goes on");
  AddJob(watch, &all->watch.job);
  AddMaxWait(watch, &all->watch.max_wait);
  AddOutput(watch, &all->watch.output);

  CLI::App* logs = AddCommand(app, line, &all->logs, "logs", "Print what the ranks of a job wrote");
  AddJob(logs, &all->logs.job);
  logs->add_flag("-f,--follow", all->logs.follow, "Go on until the job ends");
  logs->add_option("--rank", all->logs.rank, "Only this rank")->check(CLI::Range(0, 1000000));
}

void AddDebug(CLI::App* app, CommandLine* line, DebugBundleOptions* bundle) {
  CLI::App* debug = app->add_subcommand("debug", "What helps to find out what went wrong: bundle");
  debug->fallthrough();
  debug->require_subcommand(1);
  CLI::App* command =
      AddCommand(debug, line, bundle, "bundle",
                 "Write versions, workers, and specs, events, metrics and logs of jobs into one archive, "
                 "without tokens and keys");
  command->add_option("--file", bundle->file, "Archive to write, which must not exist (default: ham-debug-TIME.zip)")
      ->type_name("FILE");
  CLI::Option* job = command->add_option("--job", bundle->job, "Only this job (repeatable; default: the newest)")
                         ->type_name("JOB")
                         ->allow_extra_args(false);
  command->add_option("--jobs", bundle->jobs, "So many of the newest jobs")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str()
      ->excludes(job);
  command
      ->add_option("--add", bundle->add,
                   "Take this file along too, such as the log of a coordinator or worker (repeatable)")
      ->type_name("FILE")
      ->allow_extra_args(false);
}

void AddSignedBy(CLI::App* app, std::optional<std::string>* signed_by) {
  app->add_option("--signed-by", *signed_by,
                  "Refuse a record that is not signed with this public key (base64; `hamctl version` tells it)")
      ->type_name("KEY")
      // An unset variable of a script must not let every record through.
      ->check([](const std::string& key) {
        return key.empty() ? "the key is empty; name one, or leave the flag out" : "";
      });
}

void AddEval(CLI::App* app, CommandLine* line, AllOptions* all) {
  CLI::App* eval = app->add_subcommand("eval", "Records of evaluations: get, show, compare, verify, export");
  eval->fallthrough();
  eval->require_subcommand(1);
  CLI::App* get = AddCommand(eval, line, &all->eval_get, "get", "Fetch the record of an evaluation job and show it");
  AddJob(get, &all->eval_get.job);
  get->add_option("--record", all->eval_get.record, "File to write, which must not exist (default: JOB.json)")
      ->type_name("FILE");
  AddSignedBy(get, &all->eval_get.signed_by);
  AddOutput(get, &all->eval_get.output, /*yaml=*/false);

  CLI::App* show = AddCommand(eval, line, &all->eval_show, "show", "Check a record and show its figures");
  show->add_option("RECORD", all->eval_show.record, "File of a record")->required();
  AddSignedBy(show, &all->eval_show.signed_by);
  AddOutput(show, &all->eval_show.output, /*yaml=*/false);

  CLI::App* diff = AddCommand(eval, line, &all->eval_diff, "diff",
                              "Compare two models by records of the same images and attacks; differences are B - A");
  diff->add_option("A", all->eval_diff.a, "File of a record")->required();
  diff->add_option("B", all->eval_diff.b, "File of another")->required();
  diff->add_option("--also-a", all->eval_diff.also_a,
                   "Records of models trained as A from other seeds, for the spread");
  diff->add_option("--also-b", all->eval_diff.also_b, "The same of B");
  diff->add_option("--validation-class", all->eval_diff.validation_class,
                   "Class chosen before looking at these images, such as the worst of the validation split")
      ->type_name("NAME");
  AddSignedBy(diff, &all->eval_diff.signed_by);
  AddOutput(diff, &all->eval_diff.output, /*yaml=*/false);

  EvalVerifyOptions* verified = &all->eval_verify;
  CLI::App* verify = AddCommand(eval, line, verified, "verify", "Attack the images of a record again: same outcomes?");
  verify->add_option("RECORD", verified->record, "File of a record")->required();
  verify->add_option("--weights", verified->weights, "The network's FILE.safetensors")->required();
  verify->add_option("--trainer", verified->trainer,
                     "Program that attacks (default: ham-trainer beside this one, ham-trainer-cuda for --device cuda)");
  for (const auto& [flag, text] :
       {std::pair("--data-root", "Folder with the data sets"), std::pair("--shard", "INDEX/COUNT: only a part"),
        std::pair("--device", "cpu or cuda"), std::pair("--threads", "CPU threads")}) {
    verify->add_option_function<std::string>(
        flag,
        [verified, flag = std::string(flag)](const std::string& value) {
          verified->more.push_back(flag);
          verified->more.push_back(value);
        },
        text);
  }
  AddSignedBy(verify, &verified->signed_by);

  EvalExportOptions* facts = &all->eval_export;
  CLI::App* exported = AddCommand(eval, line, facts, "export", "Print a record in the form of another tool");
  exported->add_option("RECORD", facts->record, "File of a record")->required();
  exported->add_flag("--robustbench", facts->robustbench, "As RobustBench's model information (JSON)")->required();
  exported->add_option("--name", facts->name, "Title of the paper");
  exported->add_option("--authors", facts->authors, "Authors, separated by commas");
  exported->add_option("--link", facts->link, "Address of the paper");
  exported->add_option("--venue", facts->venue, "Where it appeared");
  exported->add_option("--architecture", facts->architecture, "Name of the network, if not as in the record");
  exported->add_flag("--additional-data", facts->additional_data, "The model saw data beyond the training set");
  AddSignedBy(exported, &facts->signed_by);
}

}  // namespace

CommandLine ParseCommandLine(int argc, const char* const* argv, const std::string& default_config) {
  CommandLine line;
  line.global.config = default_config;
  if (argc > 0) line.global.program = argv[0];
  AllOptions all;
  CLI::App app("Client of ham: submits adversarial-training jobs and follows them.", "hamctl");
  app.set_version_flag("--version", absl::StrCat("hamctl ", kVersion, " (build ", BuildId(), ")"));
  app.add_option("--config", line.global.config, "Login file; or set HAM_CONFIG")->capture_default_str();
  AddDuration(&app, "--timeout", "Time of one call to the coordinator, with its retries", &line.global.timeout);
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 done, job succeeded; 1 job failed or cancelled, other error; 2 usage; 3 coordinator unreachable;\n"
      "4 timeout; 5 not found; 6 not allowed; 7 quota; 130 interrupted.");
  AddLogin(&app, &line, &all.login);
  AddSubmit(&app, &line, &all.submit);
  AddReading(&app, &line, &all);
  CLI::App* cancel = AddCommand(&app, &line, &all.cancel, "cancel", "Cancel jobs");
  cancel->add_option("JOB", all.cancel.jobs, "Jobs")->required();
  AddOutput(cancel, &all.cancel.output);
  AddOutput(AddCommand(&app, &line, &all.workers, "workers", "List workers and their slots"), &all.workers.output);
  AddOutput(AddCommand(&app, &line, &all.version, "version", "Versions of hamctl and of the coordinator"),
            &all.version.output);
  AddDebug(&app, &line, &all.debug_bundle);
  AddEval(&app, &line, &all);
  try {
    app.parse(argc, argv);
    line.global.config_given = app.count("--config") > 0;
  } catch (const CLI::ParseError& error) {
    line.exit_code = app.exit(error, std::cout, std::cerr) == 0 ? 0 : 2;
  }
  return line;
}

}  // namespace ham::client
