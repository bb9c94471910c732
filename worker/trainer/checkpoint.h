// A checkpoint on disk: everything that an exact resume needs.
//
// A directory of three files: model.safetensors (weights only, under the names of the reference models),
// state.safetensors (optimiser, averaged weights; scalars as JSON in its metadata) and manifest.json, one
// object {format_version: 3, files: [{name, sha256, bytes}]} and the fields of CheckpointInfo. It appears whole
// (written beside, synced, renamed) or not at all. Stateless; safe from any thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/trainer/safetensors.h"

namespace ham::trainer {

struct CheckpointInfo {
  int job_attempt = 0;    // 0 when run without a coordinator
  int64_t iteration = 0;  // optimiser iterations done
  int epoch = 0;          // epochs done
  int world_size = 1;
  int threads_per_rank = 1;
  std::string build_id;
  std::string spec_digest;             // lower-case hex SHA-256 of the spec as the trainer got it; "" if unknown
  std::string data_digest = {};        // likewise of the data that it read
  std::string parameters_digest = {};  // of Checkpoint::parameters, which WriteCheckpoint sees to; "" if it had none
  // As in specs.
  std::string model;
  std::string precision;
  std::string batch_norm;
  // Of rank 0 (cpu_identity.h).
  std::string cpu_model;
  std::string cpu_instructions;
  std::string libtorch;
};

// What of that on which rounding depends `now` has otherwise than `made`, each as "2 ranks, this run has 4": a run
// resumed from `made` is bit for bit the same if there is nothing, else equal up to rounding. Any thread.
std::vector<std::string> DifferencesOf(const CheckpointInfo& made, const CheckpointInfo& now);

// Lower-case hex SHA-256 of the bytes of a contiguous tensor. Any thread.
std::string ParametersDigest(const at::Tensor& flat);

inline constexpr char kScalarsKey[] = "scalars";  // in the metadata of state.safetensors

struct Checkpoint {
  CheckpointInfo info;
  bool within_epoch = false;                          // made before the end of epoch info.epoch + 1; not stored
  at::Tensor parameters;                              // flat, as the run has them; not stored, only their digest
  TensorMap model;                                    // float32, float64 or int64
  TensorMap state;                                    // float32, float64 or int64
  nlohmann::json scalars = nlohmann::json::object();  // finite numbers, strings, booleans, nested as wanted; no nulls
};

// What the validation images say of the checkpoint made at the end of `epoch`.
struct Scores {
  int epoch = 0;
  double robust_accuracy = 0;
  double worst_class_robust_accuracy = 0;
};

// How a file of weights says in its metadata what its network does to pixels first; `normalization` is
// NormalizationJson().
std::map<std::string, std::string> NormalizationText(const nlohmann::json& normalization);

// Makes one directory if it is missing, such that it outlives a loss of power. Unavailable.
absl::Status MakeDirectory(const std::string& directory);

// Writes the directory, replacing one of that name, and returns the path of its manifest.json. The parent directory
// must exist. ResourceExhausted for a full disk or no memory; InvalidArgument for content that cannot be stored;
// Unavailable for other input/output errors. After an error the name holds the old one, untouched, or, where only the
// last sync failed, the new one, whole. The two change places in one step, but on file systems that cannot exchange
// names (NFS): there the old one is moved aside first.
absl::StatusOr<std::string> WriteCheckpoint(const std::string& directory, const Checkpoint& checkpoint);

// Reads what WriteCheckpoint wrote; the files lie beside the manifest. NotFound if the manifest or a file is
// missing; DataLoss names the file that is damaged; FailedPrecondition for another format_version;
// ResourceExhausted without memory for it.
absl::StatusOr<Checkpoint> LoadCheckpoint(const std::string& manifest_path);

}  // namespace ham::trainer
