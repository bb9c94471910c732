#include "worker/trainer/job_runner.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <functional>
#include <limits>
#include <utility>

#include <ATen/Parallel.h>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "proto/sha256.h"
#include "proto/version.h"
#include "worker/trainer/agent_channel.h"
#include "worker/trainer/agreement.h"
#include "worker/trainer/checkpoint.h"
#include "worker/trainer/checkpoint_keeper.h"
#include "worker/trainer/checkpoint_writer.h"
#include "worker/trainer/cpu_identity.h"
#include "worker/trainer/device.h"
#include "worker/trainer/evaluation/block_queue.h"
#include "worker/trainer/evaluation/pool_rank.h"
#include "worker/trainer/exception_status.h"
#include "worker/trainer/gloo_collective.h"
#include "worker/trainer/matmul_peak.h"
#include "worker/trainer/metric_text.h"
#include "worker/trainer/precision.h"
#include "worker/trainer/progress_reporter.h"
#include "worker/trainer/stopwatch.h"
#include "worker/trainer/trainer.h"
#include "worker/trainer/weights_file.h"

namespace ham::trainer {
namespace {

using nlohmann::json;

constexpr absl::Duration kStartTimeout = absl::Minutes(1);
// As long as an agent may be without its coordinator before it gives up.
constexpr absl::Duration kUploadTimeout = absl::Hours(1);
constexpr absl::Duration kWaitTick = absl::Seconds(1);
constexpr double kMostDiskSeconds = 600;

void PrintError(const absl::Status& status) {
  std::fprintf(stderr, "ham-trainer: %s\n", std::string(status.message()).c_str());
}

// LibTorch and the JSON library throw; nothing gets past here.
std::string DataDigest(const RunInputs& inputs) { return Sha256Hex(inputs.train.digest + inputs.test.digest); }

// All but how far it is.
CheckpointInfo InfoOf(const RankJob& job, const RunInputs& inputs) {
  const json& train = job.spec.at("train");
  return {.job_attempt = job.attempt,
          .world_size = job.world_size,
          .threads_per_rank = job.threads,
          .build_id = BuildId(),
          .spec_digest = Sha256Hex(job.spec.dump()),
          .data_digest = DataDigest(inputs),
          .model = train.at("model").at("name"),
          .precision = train.at("precision"),
          .batch_norm = train.at("batch_norm"),
          .cpu_model = CpuModel(),
          .cpu_instructions = CpuInstructions(),
          .libtorch = LibTorchVersion()};
}

std::string CheckpointDirectory(const RankJob& job) { return job.work_dir + "/checkpoints"; }

absl::Status RestoreFrom(const RankJob& job, const RunInputs& inputs, Trainer& trainer) {
  auto checkpoint = LoadCheckpoint(job.resume_manifest);
  if (!checkpoint.ok()) {  // not the user's fault: another worker, or the newest copy, may do better
    return absl::UnavailableError(absl::StrCat("cannot resume: ", checkpoint.status().message()));
  }
  const CheckpointInfo now = InfoOf(job, inputs);
  const CheckpointInfo& made = checkpoint->info;
  if (!made.spec_digest.empty() && made.spec_digest != now.spec_digest) {
    return absl::InvalidArgumentError("the checkpoint was made from another spec; resume with that one or start anew");
  }
  if (!made.data_digest.empty() && made.data_digest != now.data_digest) {  // another worker may have the right files
    return absl::FailedPreconditionError(
        absl::StrFormat("cannot resume: the checkpoint was made with other files of the data set %s than lie in %s; "
                        "bring those back or start anew",
                        inputs.spec.data.name, job.data_root));
  }
  const std::vector<std::string> differences = DifferencesOf(made, now);
  if (job.rank == 0 && !differences.empty()) {
    std::fprintf(stderr,
                 "ham-trainer: warning: the checkpoint was made with %s: results are equal up to rounding only\n",
                 absl::StrJoin(differences, "; ").c_str());
  }
  if (absl::Status status = trainer.Restore(*checkpoint); !status.ok()) return status;
  trainer.NoteInexact(differences);
  const std::string digest = ParametersDigest(ToHost(trainer.weights().flat()));
  if (!made.parameters_digest.empty() && made.parameters_digest != digest) {
    return absl::UnavailableError(
        absl::StrFormat("cannot resume: the parameters read from %s have digest %s, when it was made they had %s",
                        job.resume_manifest, digest, made.parameters_digest));
  }
  return absl::OkStatus();
}

absl::Status Train(const RankJob& job, const RunInputs& inputs, Collective& collective, RunObserver& observer) {
  auto data = ChooseRows(inputs.spec.data, inputs.train, inputs.test);
  if (!data.ok()) return data.status();
  Trainer trainer(inputs.spec, *inputs.model, *data, collective, observer, inputs.accelerator.get());
  if (absl::Status status = trainer.Check(); !status.ok()) return status;
  trainer.HoldAgainst(RanksPeak(inputs, job.rank));
  if (!job.resume_manifest.empty()) {
    if (absl::Status status = RestoreFrom(job, inputs, trainer); !status.ok()) return status;
  } else if (!job.initial_weights.empty()) {
    ParameterSet weights = trainer.weights().Clone();
    std::string note;
    absl::Status status = ImportWeights(job.initial_weights, *inputs.model, &weights, &note);
    if (!status.ok()) return status;
    if (!note.empty()) std::fprintf(stderr, "ham-trainer: %s\n", note.c_str());
    trainer.StartFrom(weights);
  }
  if (absl::Status status = CheckAgreement({.build_id = BuildId(),
                                            .spec_digest = Sha256Hex(job.spec.dump()),
                                            .data_digest = DataDigest(inputs),
                                            .threads = job.threads,
                                            .iteration = trainer.iteration(),
                                            .weights_digest = ParametersDigest(ToHost(trainer.weights().flat()))},
                                           collective);
      !status.ok()) {
    return status;
  }
  return trainer.Run();
}

class PrintingObserver : public RunObserver {
 public:
  PrintingObserver(bool as_json, CheckpointWriter* checkpoints) : as_json_(as_json), checkpoints_(checkpoints) {}

  absl::Status OnTick(const Position&) override { return absl::OkStatus(); }

  absl::Status OnMetric(const json& point) override {
    const std::string line = as_json_ ? point.dump() : MetricText(point);
    if (std::printf("%s\n", line.c_str()) < 0 || std::fflush(stdout) != 0) {
      return absl::UnavailableError("cannot write metrics to standard output");
    }
    return absl::OkStatus();
  }

  absl::Status OnCheckpoint(Checkpoint checkpoint) override { return checkpoints_->Store(std::move(checkpoint)); }

  absl::Status OnScores(const Scores& scores) override { return checkpoints_->Score(scores); }

 private:
  const bool as_json_;
  CheckpointWriter* const checkpoints_;
};

// Frames to the agent; training thread only.
class AgentObserver : public RunObserver {
 public:
  AgentObserver(AgentChannel& channel, ProgressReporter& reporter, CheckpointWriter& checkpoints)
      : channel_(channel), reporter_(reporter), checkpoints_(checkpoints) {}

  absl::Status OnTick(const Position& position) override {
    position_ = position;
    return reporter_.Tick(position);
  }

  absl::Status OnMetric(const json& point) override { return channel_.Send({{"type", "metric"}, {"point", point}}); }

  absl::Status OnCheckpoint(Checkpoint checkpoint) override {
    if (absl::Status status = AwaitDisk(); !status.ok()) return status;
    return checkpoints_.Store(std::move(checkpoint));
  }

  absl::Status OnScores(const Scores& scores) override {
    if (absl::Status status = AwaitDisk(); !status.ok()) return status;
    return checkpoints_.Score(scores);
  }

  // The run is not done before its last checkpoint is stored. Ticks meanwhile: this rank is not stuck.
  absl::Status WaitForUpload(CheckpointKeeper& keeper) {
    position_.phase = "save";
    if (absl::Status status = AwaitDisk(); !status.ok()) return status;
    if (absl::Status status = checkpoints_.Finish(); !status.ok()) return status;
    Stopwatch waited;
    absl::Status status;
    do {
      if (absl::Status sent = OnTick(position_); !sent.ok()) return sent;
      status = keeper.WaitForNewest(kWaitTick);
    } while (absl::IsDeadlineExceeded(status) && waited.Elapsed() < absl::ToDoubleSeconds(kUploadTimeout));
    if (status.ok()) return status;
    return absl::UnavailableError(absl::StrCat("the last checkpoint could not be stored: ", status.message()));
  }

 private:
  // Ticks while the checkpoint before is on its way to a slow disk; a disk that takes too long is no sign of life.
  absl::Status AwaitDisk() {
    for (Stopwatch waited; !checkpoints_.AwaitIdle(kWaitTick) && waited.Elapsed() < kMostDiskSeconds;) {
      if (absl::Status status = reporter_.Tick(position_); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  AgentChannel& channel_;
  ProgressReporter& reporter_;
  CheckpointWriter& checkpoints_;
  Position position_;
};

absl::StatusOr<RankJob> ReadStart(const json& start) {
  if (const std::string build = start.at("build_id"); build != BuildId()) {
    return absl::FailedPreconditionError(absl::StrCat("the agent is of build ", build, ", this trainer of ", BuildId(),
                                                      "; install both from one build"));
  }
  RankJob job;
  job.spec = start.at("spec");
  job.attempt = start.at("attempt");
  job.rank = start.at("rank");
  job.world_size = start.at("world_size");
  job.threads = start.at("threads");
  job.data_root = start.at("data_root");
  job.work_dir = start.at("work_dir");
  job.resume_manifest = start.at("resume_manifest");
  job.weights = start.at("weights");
  job.interface = start.at("interface");
  job.address = start.at("address");
  job.collective_timeout = absl::Seconds(start.at("collective_timeout_seconds").get<double>());
  job.collective_patience = absl::Seconds(start.at("collective_patience_seconds").get<double>());
  return job;
}

// `field` is what asks for it.
absl::StatusOr<std::unique_ptr<Accelerator>> FindAccelerator(const std::string& field) {
  auto found = MakeAccelerator();
  if (!found.ok() || *found != nullptr) return found;
  return absl::FailedPreconditionError(
      absl::StrCat(field, " is cuda, but this program was built without CUDA; the worker needs ham-trainer-cuda"));
}

// What was made of the frames that the agent sends as it pleases. Outlives the channel, whose thread fills it.
struct AgentSays {
  std::atomic<CheckpointKeeper*> keeper{nullptr};
  BlockQueue work;
};

// An agent that is gone is seen by the next tick that can end the run.
std::function<void()> LoadingTick(ProgressReporter& reporter) {
  return [&reporter] { reporter.Tick({.phase = "load"}).IgnoreError(); };
}

absl::Status EvaluateForAgent(const RankJob& job, AgentChannel& channel, ProgressReporter& reporter, BlockQueue& work) {
  auto spec = ParseEvaluateSpec(job.spec);
  if (!spec.ok()) return spec.status();
  std::unique_ptr<Accelerator> accelerator;
  if (spec->device == Device::kCuda) {
    auto found = FindAccelerator("evaluate.resources.device");
    if (!found.ok()) return found.status();
    accelerator = *std::move(found);
  }
  const PoolRank rank{*std::move(spec), job.weights, job.data_root, job.data_cache, job.threads};
  return RunPoolRank(
      rank, std::move(accelerator), work,
      {.loading = LoadingTick(reporter),
       .progress = [&](int64_t blocks) { return reporter.Tick({.phase = "evaluate", .iteration = blocks}); },
       .finding =
           [&](json finding) {
             return channel.Send({{"type", "finding"}, {"finding", std::move(finding)}});
           }});
}

absl::Status TrainForAgent(const RankJob& job, AgentChannel& channel, ProgressReporter& reporter,
                           std::atomic<CheckpointKeeper*>& keeper) {
  auto inputs = PrepareRun(job, LoadingTick(reporter));
  if (!inputs.ok()) return inputs.status();
  if (absl::Status status = reporter.Tick({.phase = "connect"}); !status.ok()) return status;
  auto collective = ConnectRanks(job, inputs->accelerator.get(), &channel.store());
  if (!collective.ok()) return collective.status();
  if (absl::Status status = reporter.Tick({.phase = "load"}); !status.ok()) return status;
  reporter.Watch(collective->get());
  const absl::Cleanup unwatch = [&reporter] { reporter.Watch(nullptr); };
  // Lives until the process ends: the channel's thread may still call it then.
  auto* kept =
      new CheckpointKeeper(CheckpointDirectory(job), /*uploads=*/true, inputs->spec.checkpoint.keep_every_epochs);
  keeper = kept;
  CheckpointWriter checkpoints(
      CheckpointDirectory(job), InfoOf(job, *inputs), inputs->spec.epochs, *kept,
      [&channel](const std::string& manifest, const CheckpointInfo& info) {
        return channel.Send(
            {{"type", "checkpoint"}, {"manifest", manifest}, {"iteration", info.iteration}, {"epoch", info.epoch}});
      });
  AgentObserver observer(channel, reporter, checkpoints);
  if (absl::Status status = Train(job, *inputs, **collective, observer); !status.ok()) return status;
  return observer.WaitForUpload(*kept);
}

absl::Status RunJobOfAgent(AgentChannel& channel, AgentSays& says) {
  if (absl::Status status = channel.Send({{"type", "hello"}, {"build_id", BuildId()}}); !status.ok()) return status;
  auto start = channel.WaitForStart(kStartTimeout);
  if (!start.ok()) return start.status();
  auto job = ReadStart(*start);
  if (!job.ok()) return job.status();
  ProgressReporter reporter([&channel](const json& frame) { return channel.Send(frame); });
  if (absl::Status status = reporter.Tick({.phase = "load"}); !status.ok()) return status;
  return job->spec.contains("evaluate") ? EvaluateForAgent(*job, channel, reporter, says.work)
                                        : TrainForAgent(*job, channel, reporter, says.keeper);
}

}  // namespace

const char* FailureClassOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kDataLoss:
      return "USER";
    case absl::StatusCode::kInternal:
      return "TRAINER_CRASH";
    case absl::StatusCode::kDeadlineExceeded:  // of a collective, or of a key of another rank
      return "HANG";
    default:
      return "INFRASTRUCTURE";
  }
}

absl::StatusOr<RunInputs> PrepareRun(const RankJob& job, const std::function<void()>& tick) {
  auto spec = ParseTrainSpec(job.spec);
  if (!spec.ok()) return spec.status();
  RunInputs inputs{*std::move(spec), {}, {}, nullptr, nullptr};
  inputs.spec.world_size = job.world_size;
  inputs.spec.threads_per_rank = job.threads;
  at::set_num_threads(job.threads);
  const NumberTypes types = TypesOf(inputs.spec.precision);
  AllowTf32(types.tf32);
  if (inputs.spec.device == Device::kCuda) {
    auto accelerator = FindAccelerator("train.resources.device");
    if (!accelerator.ok()) return accelerator.status();
    inputs.accelerator = *std::move(accelerator);
    absl::Status status =
        CheckPrecision(inputs.spec.precision, inputs.accelerator->name(), inputs.accelerator->compute_capability());
    if (!status.ok()) return status;
  }
  const LoadOptions load{.image_size = inputs.spec.data.image_size, .cache_directory = job.data_cache, .tick = tick};
  LoadOptions load_train = load;
  load_train.extra = inputs.spec.data.extra;
  auto train = LoadDataSet(job.data_root, inputs.spec.data.name, Split::kTrain, load_train);
  if (!train.ok()) return train.status();
  auto test = LoadDataSet(job.data_root, inputs.spec.data.name, Split::kTest, load);
  if (!test.ok()) return test.status();
  if (!train->not_shared.empty()) {
    std::fprintf(stderr, "ham-trainer: each rank holds the data set in memory of its own: %s\n",
                 train->not_shared.c_str());
  }
  const ModelChoice& choice = inputs.spec.model;
  std::optional<Normalization> normalization;
  if (choice.normalize) normalization = FindDataSet(inputs.spec.data.name)->normalization;
  auto model = MakeModel(choice.name, {.image = {train->channels, train->height, train->width},
                                       .classes = static_cast<int64_t>(train->class_names.size()),
                                       .activation = choice.activation,
                                       .normalization = normalization,
                                       .compute = types.layers,
                                       .extra_block = choice.extra_block});
  if (!model.ok()) return model.status();
  inputs.train = *std::move(train);
  inputs.test = *std::move(test);
  inputs.model = *std::move(model);
  return inputs;
}

double RanksPeak(const RunInputs& inputs, int rank) {
  if (rank != 0) return std::numeric_limits<double>::quiet_NaN();
  const at::TensorOptions options =
      at::TensorOptions(TypesOf(inputs.spec.precision).layers).device(DeviceOf(inputs.accelerator.get()));
  return inputs.spec.world_size * MeasureMatmulPeak(options, *NewClockOf(inputs.accelerator.get()));
}

absl::StatusOr<std::unique_ptr<Collective>> ConnectRanks(const RankJob& job, Accelerator* accelerator,
                                                         KeyValueStore* store) {
  if (job.world_size == 1) return MakeLocalCollective();
  const RankGroup group{.rank = job.rank,
                        .world_size = job.world_size,
                        .timeout = job.collective_timeout,
                        .patience = job.collective_patience};
  if (accelerator != nullptr) {
    auto connected = accelerator->Connect(group, *store);
    if (!absl::IsAlreadyExists(connected.status())) return connected;
    std::fprintf(stderr, "ham-trainer: %s; sums go through host memory\n",
                 std::string(connected.status().message()).c_str());
  }
  return ConnectGloo({group, job.interface, job.address}, *store);
}

int RunUnderAgent(int fd) {
  signal(SIGPIPE, SIG_IGN);
  AgentSays says;
  std::atomic<int> exit_status{1};
  AgentChannel channel(fd, {.on_end =
                                [&](const absl::Status& status) {
                                  if (exit_status != 0) PrintError(status);
                                  _exit(exit_status);
                                },
                            .on_checkpoint_done =
                                [&](const std::string& manifest, const absl::Status& status) {
                                  if (CheckpointKeeper* known = says.keeper) known->Acknowledge(manifest, status);
                                },
                            .on_work =
                                [&](const json& frame) {
                                  auto blocks = ParseWork(frame);
                                  if (blocks.ok()) says.work.Replace(*std::move(blocks));
                                  return blocks.status();
                                }});
  const absl::Status status = WithoutExceptions([&] { return RunJobOfAgent(channel, says); });
  absl::Status sent;
  if (status.ok()) {
    exit_status = 0;  // before the frame: the agent may close its end as soon as it has read it
    sent = channel.Send({{"type", "done"}});
  } else {
    PrintError(status);
    sent = channel.Send({{"type", "failed"},
                         {"class", FailureClassOf(status)},
                         {"message", std::string(status.message())},
                         {"lost_rank", LostRankOf(status).value_or(-1)}});
  }
  return sent.ok() ? exit_status.load() : 1;
}

absl::Status RunAlone(const RankJob& job, const std::string& rendezvous_dir, bool as_json) {
  return WithoutExceptions([&]() -> absl::Status {
    auto inputs = PrepareRun(job);
    if (!inputs.ok()) return inputs.status();
    auto store = job.world_size > 1 ? MakeFileStore(rendezvous_dir) : nullptr;
    auto collective = ConnectRanks(job, inputs->accelerator.get(), store.get());
    if (!collective.ok()) return collective.status();
    CheckpointKeeper keeper(CheckpointDirectory(job), /*uploads=*/false, inputs->spec.checkpoint.keep_every_epochs);
    CheckpointWriter checkpoints(CheckpointDirectory(job), InfoOf(job, *inputs), inputs->spec.epochs, keeper, nullptr);
    PrintingObserver observer(as_json, &checkpoints);
    if (absl::Status status = Train(job, *inputs, **collective, observer); !status.ok()) return status;
    return checkpoints.Finish();
  });
}

}  // namespace ham::trainer
