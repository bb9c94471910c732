#include "server/evaluated_weights.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "proto/rpc_status.h"
#include "proto/utf8.h"
#include "server/checkpoint_manifest.h"
#include "server/job_request.h"
#include "server/loop_calls.h"

namespace ham::server {
namespace {

using ham::v1::TrainSpec;

absl::Status Unfit(const std::string& sentence) {
  return WithReason(absl::FailedPreconditionError(sentence), "WEIGHTS_NOT_HERE");
}

absl::StatusOr<ham::v1::Checkpoint> NewestCheckpoint(const ServiceParts& parts, const std::string& job) {
  ham::v1::Checkpoint checkpoint;
  const absl::Status status = ReadAndWait(parts.loop, [&](const CoordinatorLoop::View& view) {
    const JobRow* row = view.core().FindJob(job);
    if (row == nullptr) {
      return WithReason(absl::NotFoundError(
                            absl::StrCat("evaluate.job ", Shown(job), " does not exist; `hamctl list` shows all jobs")),
                        "JOB_NOT_FOUND");
    }
    if (row->pool) {
      return Unfit(
          absl::StrCat("evaluate.job ", job, " is an evaluation and has no weights of its own; name a training"));
    }
    if (!row->checkpoint) {
      return Unfit(absl::StrCat("evaluate.job ", job, " has no checkpoint yet; wait for its first one"));
    }
    checkpoint = *row->checkpoint;
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return checkpoint;
}

bool HasAverage(const TrainSpec& train, const ham::v1::Checkpoint& checkpoint) {
  const int start = train.swa_start_epoch();
  return train.ema_decay() > 0 || (start > 0 && checkpoint.epoch() >= start);
}

// What is set stays.
void FillModelAndData(const TrainSpec& train, ham::v1::EvaluateSpec* evaluate) {
  ham::v1::ModelSpec model = train.model();
  model.clear_normalization();
  model.MergeFrom(evaluate->model());
  *evaluate->mutable_model() = model;
  auto* data = evaluate->mutable_data();
  if (!data->has_name()) data->set_name(train.data().name());
  if (!data->has_image_size() && data->name() == train.data().name()) data->set_image_size(train.data().image_size());
}

}  // namespace

absl::Status FillFromJob(const ServiceParts& parts, ham::v1::EvaluateSpec* evaluate) {
  const std::string& job = evaluate->job();
  // A name that is none is for CheckCreateJob to refuse.
  if (!evaluate->weights().empty() || !CheckJobName(job).ok()) return absl::OkStatus();
  const absl::StatusOr<ham::v1::Checkpoint> checkpoint = NewestCheckpoint(parts, job);
  if (!checkpoint.ok()) return checkpoint.status();
  const absl::StatusOr<JobContent> content = parts.store->GetContent(job);
  if (!content.ok()) return content.status();
  const absl::StatusOr<CheckpointManifest> manifest =
      ReadCheckpointManifest(parts.artifacts, checkpoint->manifest_digest());
  if (!manifest.ok()) return manifest.status();
  const TrainSpec& train = content->spec.train();
  const std::string& weights = HasAverage(train, *checkpoint) ? manifest->state : manifest->model;
  if (weights.empty()) {
    return Unfit(absl::StrCat("the checkpoint of evaluate.job ", job,
                              " does not say which of its files are weights; export them and name the file instead"));
  }
  evaluate->set_weights(weights);
  FillModelAndData(train, evaluate);
  return absl::OkStatus();
}

absl::Status CheckWeightsAreHere(ArtifactStore* artifacts, const std::string& digest) {
  const absl::StatusOr<ArtifactStore::Held> held = artifacts->Query(digest);
  if (!held.ok()) return held.status();
  if (held->complete) return absl::OkStatus();
  return Unfit(absl::StrCat("the coordinator has no file with SHA-256 ", digest,
                            ", which evaluate.weights names; upload it first: hamctl submit --weights FILE does"));
}

}  // namespace ham::server
