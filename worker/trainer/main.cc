// ham-trainer: one rank of a job. Starts alone (`--spec`) or under an agent (`--agent-fd`).
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include <CLI/CLI.hpp>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "proto/strict_json.h"
#include "proto/version.h"
#include "worker/trainer/bench.h"
#include "worker/trainer/data/dataset.h"
#include "worker/trainer/data/inspect.h"
#include "worker/trainer/evaluation/record_run.h"
#include "worker/trainer/exception_status.h"
#include "worker/trainer/freed_memory.h"
#include "worker/trainer/gloo_collective.h"
#include "worker/trainer/job_runner.h"
#include "worker/trainer/models/model.h"
#include "worker/trainer/weights_file.h"

namespace ham::trainer {
namespace {

struct Flags {
  std::string spec;
  RankJob job;
  std::string rendezvous_dir;
  int threads = 0;                   // 0: what the spec says
  int world_size = 0;                // the same
  double collective_timeout = 60;    // seconds
  double collective_patience = 600;  // seconds
  int agent_fd = -1;
  BenchOptions bench;
  bool json = false;
  std::string path;                    // or name, of `data`
  std::string model, weights, images;  // of `logits`
  std::string checkpoint;              // folder, of `export`
  bool average = false;
  EvaluationJob evaluation;
};

absl::StatusOr<nlohmann::json> ReadSpec(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot open ", path, "; --spec names the job's JSON file"));
  std::ostringstream text;
  text << file.rdbuf();
  auto spec = ParseStrictJson(text.str());
  if (!spec.ok()) return absl::InvalidArgumentError(absl::StrCat(path, ": ", spec.status().message()));
  return spec;
}

// Completes flags.job from the spec file; the flags win over its resources.
absl::Status FinishJob(Flags* flags) {
  auto spec = ReadSpec(flags->spec);
  if (!spec.ok()) return spec.status();
  auto parsed = ParseTrainSpec(*spec);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(flags->spec, ": ", parsed.status().message(),
                                                   "; `hamctl submit --dry-run FILE -o json` prints a complete spec"));
  }
  RankJob& job = flags->job;
  job.spec = *std::move(spec);
  job.threads = flags->threads > 0 ? flags->threads : parsed->threads_per_rank;
  job.world_size = flags->world_size > 0 ? flags->world_size : parsed->world_size;
  job.collective_timeout = absl::Seconds(flags->collective_timeout);
  job.collective_patience = absl::Seconds(flags->collective_patience);
  if (job.rank >= job.world_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("--rank is ", job.rank, ", the world size ", job.world_size, "; allowed is 0 to world size - 1"));
  }
  if (job.world_size > 1 && flags->rendezvous_dir.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--rendezvous-dir is missing; the ", job.world_size,
                                                   " ranks meet in an empty directory that all see, or --world-size 1 "
                                                   "trains on one"));
  }
  return absl::OkStatus();
}

int Report(const absl::Status& status) {
  if (status.ok()) return 0;
  std::fprintf(stderr, "ham-trainer: %s\n", std::string(status.message()).c_str());
  return 1;
}

// Where none is named: a new one here, for rank 0, which alone writes.
absl::Status MakeWorkDirectory(RankJob* job) {
  std::error_code error;
  if (!job->work_dir.empty()) {
    std::filesystem::create_directories(job->work_dir, error);
  } else if (job->rank == 0) {
    job->work_dir = "ham-run";
    for (int n = 2; !std::filesystem::create_directory(job->work_dir, error) && !error; ++n) {
      job->work_dir = absl::StrCat("ham-run-", n);
    }
    if (!error) std::fprintf(stderr, "ham-trainer: checkpoints go to %s/checkpoints\n", job->work_dir.c_str());
  }
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot make ", job->work_dir, ": ", error.message()));
}

int Run(Flags* flags) {
  if (flags->agent_fd >= 0) return RunUnderAgent(flags->agent_fd);
  if (flags->spec.empty()) {
    std::fprintf(stderr, "ham-trainer: --spec is needed (or --agent-fd); see --help\n");
    return 2;
  }
  if (absl::Status status = FinishJob(flags); !status.ok()) return Report(status);
  if (absl::Status status = MakeWorkDirectory(&flags->job); !status.ok()) return Report(status);
  return Report(RunAlone(flags->job, flags->rendezvous_dir, flags->json));
}

int Bench(Flags* flags) {
  if (absl::Status status = FinishJob(flags); !status.ok()) return Report(status);
  flags->bench.json = flags->json;
  return Report(RunBench(flags->job, flags->rendezvous_dir, flags->bench));
}

int PrintVersion(bool json) {
  if (json) {
    std::printf("%s\n", nlohmann::json({{"version", kVersion}, {"build_id", BuildId()}}).dump().c_str());
  } else {
    std::printf("ham-trainer %s (build %s)\n", kVersion, BuildId());
  }
  return 0;
}

int InspectRoot(const std::string& data_root, bool json) {
  nlohmann::json list = nlohmann::json::array();
  for (const DataSetInfo& info : InspectDataSets(data_root)) {
    if (info.status.ok()) {
      list.push_back({{"name", info.name}, {"digest", info.digest}, {"path", info.path}});
      if (!json) std::printf("%s  sha256 %s  %s\n", info.name.c_str(), info.digest.c_str(), info.path.c_str());
    } else {
      list.push_back({{"name", info.name}, {"error", std::string(info.status.message())}});
      if (!json) std::printf("%s  unusable: %s\n", info.name.c_str(), std::string(info.status.message()).c_str());
    }
  }
  if (json) std::printf("%s\n", list.dump().c_str());
  return 0;
}

int InspectData(const Flags& flags) {
  if (flags.path.empty()) return InspectRoot(flags.job.data_root, flags.json);
  const auto report = InspectPath(flags.path);
  if (!report.ok()) return Report(report.status());
  std::printf("%s", (flags.json ? ToJson(*report) : ToText(*report)).c_str());
  for (const SplitReport& split : report->splits) {
    if (!split.status.ok()) return 1;
  }
  return 0;
}

int ListData(bool json) {
  std::printf("%s", (json ? KnownDataSetsAsJson() : KnownDataSetsAsText()).c_str());
  return 0;
}

int PrintDownloads(const std::string& name) {
  const KnownDataSet* const set = FindDataSet(name);
  if (set == nullptr) {
    return Report(absl::InvalidArgumentError(
        absl::StrCat("data set \"", name, "\" is unknown: allowed are ", absl::StrJoin(DataSetNames(), ", "))));
  }
  std::printf("%s", DownloadsAsText(*set).c_str());
  return 0;
}

int ListModels(bool json) {
  nlohmann::json list = nlohmann::json::array();
  if (!json) std::printf("%-18s %11s  %-10s %s\n", "NAME", "PARAMETERS", "IMAGES", "DESCRIPTION");
  for (const ModelInfo& info : KnownModels()) {
    const std::string images = absl::StrCat(info.images.channels, "x", info.images.height, "x", info.images.width);
    list.push_back({{"name", info.name},
                    {"parameters", info.parameters},
                    {"images", images},
                    {"takes", info.takes},
                    {"description", info.description}});
    if (!json) {
      std::printf("%-18s %11lld  %-10s %s; images: %s\n", info.name.c_str(), static_cast<long long>(info.parameters),
                  images.c_str(), info.description.c_str(), info.takes.c_str());
    }
  }
  if (json) std::printf("%s\n", list.dump().c_str());
  return 0;
}

void AddJobFlags(CLI::App* app, Flags* flags) {
  app->add_option("--spec", flags->spec, "Job spec, JSON with every option present");
  app->add_option("--rank", flags->job.rank, "This rank")->check(CLI::NonNegativeNumber)->capture_default_str();
  app->add_option("--world-size", flags->world_size, "Ranks (default: the spec's world_size)")
      ->check(CLI::PositiveNumber);
  app->add_option("--data-root", flags->job.data_root, "Folder with the data sets")->capture_default_str();
  app->add_option("--data-cache", flags->job.data_cache,
                  "Folder for prepared data sets, which all ranks of a host share (default: .ham-cache under "
                  "--data-root, or where that cannot be written ham/data in the user's cache folder)");
  app->add_option("--threads", flags->threads, "CPU threads (default: the spec's threads_per_rank)")
      ->check(CLI::Range(1, 1024));
  app->add_option("--rendezvous-dir", flags->rendezvous_dir, "Empty folder that all ranks see (world size > 1)");
  app->add_option("--interface", flags->job.interface,
                  "Network interface for traffic between ranks, which is not encrypted (default: loopback, for ranks "
                  "of one host)");
  app->add_option("--collective-timeout", flags->collective_timeout, "Seconds that a sum waits for a silent rank")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app->add_option("--collective-patience", flags->collective_patience,
                  "Seconds that ranks wait for each other at the start, after a save, and in an evaluation")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app->add_flag("--json", flags->json, "Print JSON");
}

// "0/4": the first of four.
std::string ParseShard(const std::string& text, EvaluationJob* job) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits('/', 1));
  const bool numbers =
      absl::SimpleAtoi(parts.first, &job->shard_index) && absl::SimpleAtoi(parts.second, &job->shard_count);
  if (numbers && job->shard_index >= 0 && job->shard_index < job->shard_count) return "";
  return absl::StrCat("--shard is \"", text, "\"; allowed is INDEX/COUNT with INDEX from 0 to COUNT - 1");
}

// What `evaluate` and `verify` share.
void AddEvaluationFlags(CLI::App* app, EvaluationJob* job) {
  app->add_option("--weights", job->setup.weights, "FILE.safetensors, from `export`, or from deploy/export_pytorch.py")
      ->required();
  app->add_option("--data-root", job->setup.data_root, "Folder with the data sets")->capture_default_str();
  app->add_option("--data-cache", job->setup.data_cache, "Folder for prepared data sets (default: as of training)");
  app->add_option("--device", job->device, "cpu or cuda")->check(CLI::IsMember({"cpu", "cuda"}))->capture_default_str();
  app->add_option("--threads", job->setup.threads, "CPU threads")->check(CLI::Range(1, 1024))->capture_default_str();
  app->add_option("--batch", job->block_rows,
                  "Images at a time; results do not depend on it (default: 128, on a GPU 512)")
      ->check(CLI::Range(1, 65536));
  app->add_option_function<std::string>(
      "--shard",
      [job](const std::string& text) {
        if (const std::string error = ParseShard(text, job); !error.empty()) throw CLI::ValidationError(error);
      },
      "INDEX/COUNT: only every COUNT-th image, from number INDEX on");
}

void AddEvaluate(CLI::App* app, EvaluationJob* job) {
  AddEvaluationFlags(app, job);
  app->add_option("--model", job->setup.model, "One of `models`")->capture_default_str();
  app->add_option("--activation", job->setup.activation, "relu or silu")
      ->check(CLI::IsMember({"relu", "silu"}))
      ->capture_default_str();
  app->add_option("--data", job->setup.data, "Data set; its test images are attacked")->required();
  app->add_option("--image-size", job->setup.image_size, "Of imagenette: 32 or 160");
  app->add_option("--rows", job->rows, "First images only (default: all)")->check(CLI::NonNegativeNumber);
  app->add_option("--norm", job->norm, "linf or l2")->check(CLI::IsMember({"linf", "l2"}))->capture_default_str();
  app->add_option("--epsilon", job->epsilon, "Radius of the ball, of pixels in [0, 1]")->capture_default_str();
  app->add_option("--attacks", job->attacks,
                  "standard (AutoAttack's: apgd,apgd-t,fab-t,square), or NAME[:OPTION=VALUE...] with commas between: "
                  "\"apgd,pgd:steps=50:loss=margin\"; names and options are those of evaluation.suites[].attacks[]")
      ->capture_default_str();
  app->add_option("--seed", job->seed, "Of all that is random")->capture_default_str();
  app->add_option("--precision", job->setup.precision, "Of the attacks: fp32, tf32, fp64 or bf16")
      ->check(CLI::IsMember({"fp32", "tf32", "fp64", "bf16"}))
      ->capture_default_str();
  app->add_option("--record", job->record, "File to write; FILE.journal beside it is what a second call goes on from")
      ->required();
  app->add_flag("--json", job->json, "Progress as JSON lines");
}

int Main(int argc, char** argv) {
  KeepFreedMemory();
  Flags flags;
  flags.evaluation.setup.data_root = "/usr/share/datasets";
  flags.job.data_root = "/usr/share/datasets";
  CLI::App app("ham-trainer: trains one rank of a job");
  app.set_version_flag("--version", absl::StrCat("ham-trainer ", kVersion, " (build ", BuildId(), ")"));
  AddJobFlags(&app, &flags);
  app.add_option("--work-dir", flags.job.work_dir,
                 "Folder for checkpoints/ (default: a new one, ./ham-run); checkpoints/best.json names the best ones");
  app.add_option("--resume", flags.job.resume_manifest, "Manifest of a checkpoint to go on from");
  app.add_option("--initial-weights", flags.job.initial_weights,
                 "Weights to start from, FILE.safetensors, from `export` or PyTorch")
      ->excludes("--resume");
  app.add_option("--agent-fd", flags.agent_fd, "Socket of the agent that started this program");
  CLI::App* version = app.add_subcommand("version", "Print version and build");
  version->add_flag("--json", flags.json, "Print JSON");
  CLI::App* data = app.add_subcommand("data", "Data sets")->require_subcommand(1);
  CLI::App* inspect = data->add_subcommand("inspect", "Read and check a data set, or all under --data-root");
  inspect->add_option("path", flags.path, "Folder or file of a data set (default: all known ones under --data-root)");
  inspect->add_option("--data-root", flags.job.data_root, "Folder with the data sets")->capture_default_str();
  inspect->add_flag("--json", flags.json, "Print JSON");
  CLI::App* list = data->add_subcommand("list", "Known data sets");
  list->add_flag("--json", flags.json, "Print JSON");
  CLI::App* urls = data->add_subcommand("urls", "What deploy/fetch_data.sh fetches: URL, MD5 and folder of each file");
  urls->add_option("name", flags.path, "Data set")->required();
  CLI::App* models = app.add_subcommand("models", "List the models; parameters are for 10 classes of such images");
  models->add_flag("--json", flags.json, "Print JSON");
  CLI::App* exporting = app.add_subcommand("export", "Write a checkpoint's weights to a safetensors file for PyTorch");
  exporting->add_option("checkpoint", flags.checkpoint, "Folder of the checkpoint")->required();
  exporting->add_option("file", flags.path, "File to write, FILE.safetensors")->required();
  exporting->add_flag("--average", flags.average, "The averaged weights");
  CLI::App* logits = app.add_subcommand("logits", "What a model says of images, to compare it with another program");
  logits->add_option("model", flags.model, "Name of the model")->required();
  logits->add_option("weights", flags.weights, "Its weights, FILE.safetensors")->required();
  logits->add_option("images", flags.images, "FILE.safetensors with \"images\" [N, C, H, W] in [0, 1]")->required();
  logits->add_option("file", flags.path, "File to write \"logits\" [N, K] to, FILE.safetensors")->required();
  CLI::App* evaluate = app.add_subcommand("evaluate", "Attack a network; write a record of how robust it is");
  AddEvaluate(evaluate, &flags.evaluation);
  CLI::App* verify = app.add_subcommand("verify", "Attack a record's images again and compare all outcomes");
  verify->add_option("record", flags.evaluation.record, "Record of `evaluate`")->required();
  AddEvaluationFlags(verify, &flags.evaluation);
  CLI::App* bench = app.add_subcommand("bench", "Measure where the time of training steps goes");
  AddJobFlags(bench, &flags);
  bench->add_option("--iterations", flags.bench.iterations, "Steps to time")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  bench->add_option("--epoch", flags.bench.epoch, "Epoch whose steps to time (default: the job's last one)")
      ->check(CLI::PositiveNumber);
  bench->add_option("--evaluation", flags.bench.evaluation_rows,
                    "Also time the job's periodic evaluation on so many test images");
  bench->add_option("--trace", flags.bench.trace, "File to write a trace of the timed steps to, for Perfetto");
  bench->get_option("--spec")->required();
  app.require_subcommand(0, 1);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (version->parsed()) return PrintVersion(flags.json);
  if (models->parsed()) return ListModels(flags.json);
  if (exporting->parsed()) return Report(ExportWeights(flags.checkpoint, flags.average, flags.path));
  if (logits->parsed()) return Report(WriteLogits(flags.model, flags.weights, flags.images, flags.path));
  if (evaluate->parsed()) return Report(WithoutExceptions([&] { return RunEvaluation(flags.evaluation); }));
  if (verify->parsed()) return Report(WithoutExceptions([&] { return VerifyRecord(flags.evaluation); }));
  if (inspect->parsed()) return InspectData(flags);
  if (list->parsed()) return ListData(flags.json);
  if (urls->parsed()) return PrintDownloads(flags.path);
  if (absl::Status status = CheckGlooBinding(); !status.ok()) return Report(status);
  return bench->parsed() ? Bench(&flags) : Run(&flags);
}

}  // namespace
}  // namespace ham::trainer

int main(int argc, char** argv) {
  try {
    return ham::trainer::Main(argc, argv);
  } catch (const std::exception& error) {  // LibTorch's, from the benchmark; runs of jobs catch their own
    std::fprintf(stderr, "ham-trainer: %s\n", error.what());
    return 1;
  }
}
