// From a job to a finished run: under an agent (frames over a socket), where it may also be an evaluation, or alone
// (metrics on stdout).
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include <nlohmann/json.hpp>
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/trainer/accelerator.h"
#include "worker/trainer/collective.h"
#include "worker/trainer/data/dataset.h"
#include "worker/trainer/key_value_store.h"
#include "worker/trainer/models/model.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// One rank's part of a job.
struct RankJob {
  nlohmann::json spec;  // JobSpec
  int attempt = 0;      // 0 without a coordinator
  int rank = 0;
  int world_size = 1;
  int threads = 1;
  std::string data_root;
  std::string data_cache;       // of prepared data sets; "" = LoadOptions'
  std::string work_dir;         // exists; checkpoints go to work_dir/checkpoints
  std::string resume_manifest;  // "" = from scratch
  std::string weights;          // of an evaluation: the file of them
  std::string initial_weights;  // safetensors file that a run from scratch starts from; "" = from the seed
  // Of the ranks' traffic; see GlooOptions.
  std::string interface;
  std::string address;
  absl::Duration collective_timeout = absl::Minutes(1);
  absl::Duration collective_patience = absl::Minutes(10);
};

// What a run needs before its first step, checked and loaded.
struct RunInputs {
  TrainSpec spec;  // with the job's world size and threads
  ImageSet train;
  ImageSet test;
  std::unique_ptr<Model> model;
  std::unique_ptr<Accelerator> accelerator;  // null on a CPU
};

// InvalidArgument, NotFound and DataLoss are the user's or the data's; FailedPrecondition where the spec asks for a
// GPU, or a precision of it, that this program or host has not. Sets the process's thread count. `tick`: LoadOptions'.
absl::StatusOr<RunInputs> PrepareRun(
    const RankJob& job, const std::function<void()>& tick = [] {});

// Floating-point operations a second of all ranks, which are taken to be alike, in matrix products of the type that the
// spec's precision computes in: rank 0 measures (matmul_peak.h). NaN on the others.
double RanksPeak(const RunInputs& inputs, int rank);

// Local for one rank; else through `store` (not null then): NCCL between GPUs, Gloo between CPUs and where ranks share
// a GPU. `accelerator` is null on a CPU.
absl::StatusOr<std::unique_ptr<Collective>> ConnectRanks(const RankJob& job, Accelerator* accelerator,
                                                         KeyValueStore* store);

// The name of the FailureClass (proto/ham/v1/job.proto) for an error that ended a run.
const char* FailureClassOf(const absl::Status& status);

// Runs what the agent on the other end of `fd` asks for; returns the exit status. Ends the process at once when
// the agent goes away.
int RunUnderAgent(int fd);

// Prints one line a metric: for people, or one JSON MetricPoint. `rendezvous_dir` is needed for more than one rank.
absl::Status RunAlone(const RankJob& job, const std::string& rendezvous_dir, bool json);

}  // namespace ham::trainer
