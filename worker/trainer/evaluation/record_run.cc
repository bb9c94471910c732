#include "worker/trainer/evaluation/record_run.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <numeric>
#include <utility>

#include <nlohmann/json.hpp>
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "proto/atomic_file.h"
#include "proto/evaluation/evaluation_plan.h"
#include "proto/evaluation/outcome_warnings.h"
#include "proto/evaluation/record_file.h"
#include "proto/sha256.h"
#include "proto/utf8.h"
#include "proto/version.h"
#include "worker/trainer/accelerator.h"
#include "worker/trainer/evaluation/attack_text.h"
#include "worker/trainer/evaluation/block_evaluator.h"
#include "worker/trainer/evaluation/evaluator.h"
#include "worker/trainer/evaluation/model_checks.h"
#include "worker/trainer/evaluation/prepared_evaluation.h"
#include "worker/trainer/evaluation/progress_text.h"
#include "worker/trainer/network_passes.h"
#include "worker/trainer/stopwatch.h"

namespace ham::trainer {
namespace {

constexpr double kSecondsBetweenLines = 5;

// Null on a CPU.
absl::StatusOr<std::unique_ptr<Accelerator>> FindDevice(const EvaluationJob& job) {
  if (job.device == "cpu") return nullptr;
  auto accelerator = MakeAccelerator();
  if (!accelerator.ok() || *accelerator != nullptr) return accelerator;
  return absl::FailedPreconditionError(
      "--device is cuda, but this program was built without CUDA; use ham-trainer-cuda or --device cpu");
}

absl::StatusOr<PreparedEvaluation> Prepare(const EvaluationJob& job, const EvaluationSetup& setup) {
  auto accelerator = FindDevice(job);
  if (!accelerator.ok()) return accelerator.status();
  return PrepareEvaluation(setup, *std::move(accelerator));
}

// Places of the shard among so many rows.
absl::StatusOr<std::vector<size_t>> ShardOf(size_t rows, const EvaluationJob& job) {
  std::vector<size_t> out;
  for (size_t i = job.shard_index; i < rows; i += job.shard_count) out.push_back(i);
  if (!out.empty()) return out;
  return absl::InvalidArgumentError(
      absl::StrFormat("shard %d/%d of %d rows is empty; use fewer shards", job.shard_index, job.shard_count, rows));
}

absl::StatusOr<std::vector<uint32_t>> RowsOf(const EvaluationJob& job, const ImageSet& images) {
  const auto rows = FirstRows("--rows", job.rows, job.setup, images);
  if (!rows.ok()) return rows.status();
  const auto places = ShardOf(*rows, job);
  if (!places.ok()) return places.status();
  return std::vector<uint32_t>(places->begin(), places->end());
}

absl::StatusOr<EvaluationAttack> AttackOf(const RecordedAttack& recorded, const Ball& ball) {
  std::string text = absl::StrFormat("%s:steps=%d:restarts=%d", recorded.name, recorded.steps, recorded.restarts);
  if (!recorded.loss.empty()) absl::StrAppend(&text, ":loss=", recorded.loss);
  if (recorded.targets > 0) absl::StrAppend(&text, ":targets=", recorded.targets);
  if (recorded.name == "pgd") {
    absl::StrAppendFormat(&text, ":step_size=%.17g:random_start=%s:judged_at=%s", recorded.step_size,
                          recorded.random_start ? "true" : "false", recorded.judged_at);
  }
  const auto attacks = ParseAttacks(text, ball);
  if (!attacks.ok()) return attacks.status();
  return attacks->front();
}

// The file's name, where a record can hold it.
std::string SourceOf(const EvaluationJob& job) {
  const std::string name = std::filesystem::path(job.setup.weights).filename();
  return IsUtf8(name) ? name : "";
}

// Of all that outcomes depend on.
std::string InputsDigest(const EvaluationRecord& record) {
  nlohmann::json attacks = nlohmann::json::array();
  for (const RecordedAttack& attack : record.attacks) {
    attacks.push_back({attack.name, attack.loss, attack.steps, attack.step_size, attack.restarts, attack.targets,
                       attack.random_start, attack.judged_at});
  }
  return Sha256Hex(
      nlohmann::json({record.model.name, record.model.weights_digest, record.model.activation,
                      record.model.normalization_mean, record.model.normalization_standard_deviation, record.data.name,
                      record.data.image_size, record.data.digest, record.data.row_ids, record.threat.norm,
                      record.threat.epsilon, attacks, record.precision, record.device, record.seed, record.build_id})
          .dump());
}

void AddCosts(const FinishedBlock& finished, EvaluationRecord* record) {
  if (finished.block.stage == kCleanStage) return;
  RecordedAttack& attack = record->attacks[finished.block.stage];
  attack.seconds += finished.seconds;
  attack.forward_passes += finished.forward_passes;
  attack.gradient_passes += finished.gradient_passes;
}

// Works on all that the plan still waits for; finish(block) hands each block on.
absl::Status WorkOff(const EvaluationJob& job, const PreparedEvaluation& prepared, const EvaluationInputs& inputs,
                     EvaluationPlan* plan, const std::function<absl::Status(const FinishedBlock&)>& finish) {
  NetworkPasses passes(*prepared.model, *prepared.weights, prepared.accelerator.get());
  BlockEvaluator evaluator(passes, *prepared.weights, inputs, [] {});
  const int64_t usual = prepared.accelerator == nullptr ? kBlockRowsOnHost : kBlockRowsOnDevice;
  while (const auto block = plan->Take(job.block_rows > 0 ? job.block_rows : usual)) {
    const absl::StatusOr<FinishedBlock> finished = evaluator.Run(*block);
    if (!finished.ok()) return finished.status();
    if (absl::Status status = CheckFinite(*finished, inputs); !status.ok()) return status;
    if (absl::Status status = finish(*finished); !status.ok()) return status;
  }
  return absl::OkStatus();
}

std::string Percent(const Estimate& estimate) {
  return absl::StrFormat("%5.1f %% [%.1f, %.1f]", 100 * estimate.value, 100 * estimate.low, 100 * estimate.high);
}

std::string SummaryOf(const EvaluationRecord& record) {
  const EvaluationFigures& figures = record.figures;
  std::string out = absl::StrFormat("clean           %s\n", Percent(figures.clean_accuracy));
  for (size_t a = 0; a < record.attacks.size(); ++a) {
    absl::StrAppendFormat(&out, "after %-9s %5.1f %%  worst class %5.1f %%  %8.1f s\n", record.attacks[a].name,
                          100 * figures.attacks[a].robust_accuracy,
                          100 * figures.attacks[a].worst_class_robust_accuracy, record.attacks[a].seconds);
  }
  absl::StrAppendFormat(&out, "robust          %s\nworst class     %s (%s)\n", Percent(figures.robust_accuracy),
                        Percent(figures.worst_class_robust_accuracy), record.data.class_names[figures.worst_class]);
  for (const EvaluationWarning& warning : record.warnings) {
    absl::StrAppendFormat(&out, "warning: %s: %s\n", WarningTypeName(warning.type), warning.message);
  }
  return out;
}

// "2 of 500 rows differ: image 34: broken_by is 1, was -1": of the first few rows in which the plan's outcomes are not
// the record's, whose rows of the shard are `places`; then how many there are.
std::string RowDifferences(const EvaluationOutcomes& now, const EvaluationRecord& record,
                           const std::vector<size_t>& places) {
  constexpr size_t kMostShown = 5;
  std::vector<std::string> shown;
  size_t count = 0;
  const EvaluationOutcomes& then = record.samples;
  for (size_t i = 0; i < places.size(); ++i) {
    const size_t row = places[i];
    std::string what;
    const auto differ = [&what](const char* name, double is, double was) {
      if (is == was) return;
      absl::StrAppendFormat(&what, "%s%s is %.9g, was %.9g", what.empty() ? "" : ", ", name, is, was);
    };
    differ("clean_prediction", now.clean_predictions[i], then.clean_predictions[row]);
    differ("broken_by", now.broken_by[i], then.broken_by[row]);
    differ("attack_prediction", now.attack_predictions[i], then.attack_predictions[row]);
    differ("margin", now.margins[i], then.margins[row]);
    if (what.empty()) continue;
    if (++count <= kMostShown) {
      shown.push_back(absl::StrFormat("image %d: %s", record.data.row_ids[row], what));
    }
  }
  return count == 0 ? ""
                    : absl::StrFormat("%d of %d rows differ: %s%s", count, places.size(), absl::StrJoin(shown, "; "),
                                      count > kMostShown ? "; ..." : "");
}

std::string JournalOf(const EvaluationJob& job) { return job.record + ".journal"; }

// A record is never written over: it may be another network's.
absl::Status CheckFree(const EvaluationJob& job) {
  if (!std::filesystem::exists(job.record) || std::filesystem::exists(JournalOf(job))) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat(job.record, " exists; remove it or name another by --record"));
}

// What of the record is not so of this network and these images; "" if all is.
std::string OtherThan(const EvaluationRecord& now, const EvaluationRecord& then, const std::vector<int32_t>& labels,
                      const std::vector<size_t>& places) {
  if (now.model.extra_block != then.model.extra_block) return "model.extra_block";
  if (now.model.normalization_mean != then.model.normalization_mean) return "model.normalization_mean";
  if (now.model.normalization_standard_deviation != then.model.normalization_standard_deviation) {
    return "model.normalization_standard_deviation";
  }
  if (now.data.split != then.data.split) return "data.split";
  if (now.data.class_names != then.data.class_names) return "data.class_names";
  for (size_t i = 0; i < places.size(); ++i) {
    if (labels[i] != then.samples.labels[places[i]]) return "samples.labels";
  }
  return "";
}

absl::Status Say(const std::string& text) {
  if (std::printf("%s", text.c_str()) >= 0 && std::fflush(stdout) == 0) return absl::OkStatus();
  return absl::UnavailableError("cannot write to standard output");
}

}  // namespace

absl::Status RunEvaluation(const EvaluationJob& job) {
  const Norm norm = job.norm == "l2" ? Norm::kL2 : Norm::kLinf;
  const auto epsilon = ParseDistance("--epsilon", job.epsilon, norm);
  if (!epsilon.ok()) return epsilon.status();
  const Ball ball{norm, *epsilon};
  auto attacks = ParseAttacks(job.attacks, ball);
  if (!attacks.ok()) return attacks.status();
  auto prepared = Prepare(job, job.setup);
  if (!prepared.ok()) return prepared.status();
  if (auto status = CheckAttacks("--attacks", *attacks, prepared->model->classes()); !status.ok()) return status;
  if (auto status = CheckFree(job); !status.ok()) return status;
  auto ids = RowsOf(job, prepared->images);
  if (!ids.ok()) return ids.status();
  const EvaluationInputs inputs{prepared->images, *std::move(ids), *std::move(attacks), ball, job.seed};

  EvaluationRecord record = RecordOf(job.setup, *prepared, inputs);
  record.model.source = SourceOf(job);
  EvaluationPlan plan(LabelsOf(inputs), static_cast<int32_t>(inputs.attacks.size()));
  EvaluationProgress progress(record.attacks);
  auto journal =
      EvaluationJournal::Open(JournalOf(job), InputsDigest(record), [&](const FinishedBlock& finished) -> absl::Status {
        if (absl::Status restored = plan.Finish(finished.block, finished.outcomes); !restored.ok()) return restored;
        AddCosts(finished, &record);
        progress.Add(finished);
        return absl::OkStatus();
      });
  if (!journal.ok()) return journal.status();
  Stopwatch since_said;
  absl::Status status = WorkOff(job, *prepared, inputs, &plan, [&](const FinishedBlock& finished) -> absl::Status {
    if (absl::Status written = journal->Append(finished); !written.ok()) return written;
    if (absl::Status taken = plan.Finish(finished.block, finished.outcomes); !taken.ok()) return taken;
    AddCosts(finished, &record);
    progress.Add(finished);
    if (plan.Left(finished.block.stage) > 0 && since_said.Elapsed() < kSecondsBetweenLines) return absl::OkStatus();
    since_said.Lap();
    const auto& names = record.data.class_names;
    return Say((job.json ? ProgressJson(plan, progress, names) : ProgressText(plan, progress, names)) + "\n");
  });
  if (!status.ok()) return status;
  record.samples = plan.outcomes();
  NetworkPasses passes(*prepared->model, *prepared->weights, prepared->accelerator.get());
  record.warnings =
      NetworkWarnings(passes, *prepared->weights, prepared->weights_digest, inputs, CheckedRows(record.samples), [] {});
  for (EvaluationWarning& warning : OutcomeWarnings(record)) record.warnings.push_back(std::move(warning));
  auto made = MakeRecord(std::move(record));
  if (!made.ok()) return made.status();
  if (status = WriteFileAtomically(job.record, UnsignedRecordFile(*made), 0644); !status.ok()) return status;
  std::error_code kept;  // a journal of a finished record does no harm
  std::filesystem::remove(JournalOf(job), kept);
  return job.json ? absl::OkStatus() : Say(absl::StrCat(SummaryOf(*made), "record          ", job.record, "\n"));
}

absl::Status VerifyRecord(const EvaluationJob& job) {
  const auto file = ReadRecordFile(job.record);
  if (!file.ok()) return file.status();
  const EvaluationRecord& record = file->record;
  EvaluationSetup asked = job.setup;
  asked.model = record.model.name;
  asked.activation = record.model.activation;
  asked.data = record.data.name;
  asked.image_size = record.data.image_size;
  asked.precision = record.precision;
  auto prepared = Prepare(job, asked);
  if (!prepared.ok()) return prepared.status();
  if (prepared->weights_digest != record.model.weights_digest) {
    return absl::FailedPreconditionError(absl::StrFormat("%s holds other weights (%s) than the record is of (%s)",
                                                         job.setup.weights, prepared->weights_digest,
                                                         record.model.weights_digest));
  }
  if (prepared->images.digest != record.data.digest) {
    return absl::FailedPreconditionError(absl::StrFormat("%s under %s has other files (%s) than the record is of (%s)",
                                                         record.data.name, job.setup.data_root, prepared->images.digest,
                                                         record.data.digest));
  }
  const Ball ball{record.threat.norm == "l2" ? Norm::kL2 : Norm::kLinf, record.threat.epsilon};
  std::vector<EvaluationAttack> attacks;
  for (const RecordedAttack& recorded : record.attacks) {
    const auto attack = AttackOf(recorded, ball);
    if (!attack.ok()) return absl::DataLossError(absl::StrCat(job.record, ": ", attack.status().message()));
    attacks.push_back(*attack);
  }
  const auto places = ShardOf(record.data.row_ids.size(), job);
  if (!places.ok()) return places.status();
  if (record.data.row_ids.back() >= prepared->images.rows) {
    return absl::DataLossError(absl::StrFormat("%s: data.row_ids reaches %d, %s has %d test images", job.record,
                                               record.data.row_ids.back(), record.data.name, prepared->images.rows));
  }
  std::vector<uint32_t> ids;
  for (const size_t place : *places) ids.push_back(record.data.row_ids[place]);
  const EvaluationInputs inputs{prepared->images, std::move(ids), std::move(attacks), ball, record.seed};
  const std::string other = OtherThan(RecordOf(asked, *prepared, inputs), record, LabelsOf(inputs), *places);
  if (!other.empty()) {
    return absl::DataLossError(absl::StrFormat("%s: %s is not that of %s and the test images of %s", job.record, other,
                                               job.setup.weights, record.data.name));
  }
  EvaluationPlan plan(LabelsOf(inputs), static_cast<int32_t>(inputs.attacks.size()));
  absl::Status status = WorkOff(job, *prepared, inputs, &plan, [&](const FinishedBlock& finished) {
    return plan.Finish(finished.block, finished.outcomes);
  });
  if (!status.ok()) return status;
  const std::string differences = RowDifferences(plan.outcomes(), record, *places);
  if (differences.empty()) {
    return Say(absl::StrFormat("%s: %d of its %d rows attacked again: all outcomes are equal\n", job.record,
                               places->size(), record.data.row_ids.size()));
  }
  const bool same = prepared->device == record.device && record.build_id == BuildId();
  return absl::DataLossError(
      absl::StrFormat("%s: %s; it was made by build %s on %s, this is build %s on %s: %s", job.record, differences,
                      record.build_id, record.device, BuildId(), prepared->device,
                      same ? "all should be equal" : "only on the same all are equal, else nearly all"));
}

}  // namespace ham::trainer
