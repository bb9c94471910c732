#include "server/evaluation_pool.h"

#include <algorithm>
#include <utility>

#include <nlohmann/json.hpp>
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/evaluation/outcome_warnings.h"
#include "proto/evaluation/record_json.h"
#include "proto/strict_json.h"

namespace ham::server {
namespace {

// One to work on, one so that the rank need not wait for the next.
constexpr size_t kBlocksInHand = 2;
constexpr int64_t kLeastBlockRows = 16;  // below, rows would be padded

absl::Status Contradiction(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("what a rank found contradicts the evaluation: ", what));
}

// The first field in which the inputs of two ranks differ, with its values; "" for none. Another device is no
// difference.
std::string DifferenceOf(const EvaluationRecord& was, const EvaluationRecord& is) {
  const nlohmann::json before = RecordJson(was);
  const nlohmann::json now = RecordJson(is);
  for (const char* section :
       {"build_id", "code_version", "data", "model", "threat", "attacks", "precision", "seed", "samples"}) {
    const nlohmann::json &a = before.at(section), &b = now.at(section);
    if (a == b) continue;
    if (std::string_view(section) == "samples") return "samples.labels";  // the rest follows from them
    if (!a.is_object()) return a.is_string() ? absl::StrCat(section, " ", a.dump(), " and ", b.dump()) : section;
    for (const auto& [key, value] : a.items()) {
      if (value == b.at(key)) continue;
      const std::string name = absl::StrCat(section, ".", key);
      return value.is_string() && value.dump().size() <= 100
                 ? absl::StrCat(name, " ", value.dump(), " and ", b.at(key).dump())
                 : name;
    }
  }
  return "";
}

EvaluationRecord WithoutCosts(EvaluationRecord record) {
  for (RecordedAttack& attack : record.attacks) {
    attack.seconds = 0;
    attack.forward_passes = attack.gradient_passes = 0;
  }
  return record;
}

FinishedBlock FromProto(const ham::v1::EvaluationBlock& block, const std::vector<int32_t>& labels) {
  FinishedBlock out;
  out.block = {block.stage(), {block.rows().begin(), block.rows().end()}};
  out.seconds = block.seconds();
  out.forward_passes = block.forward_passes();
  out.gradient_passes = block.gradient_passes();
  for (int i = 0; i < block.rows_size(); ++i) {
    const int32_t prediction = block.predictions(i);
    out.outcomes.push_back({prediction != labels[block.rows(i)], prediction, block.margins(i)});
  }
  return out;
}

}  // namespace

EvaluationPool::EvaluationPool(const ham::v1::EvaluateSpec& spec) : spec_(spec) {}

absl::Status EvaluationPool::Apply(const ham::v1::EvaluationFinding& finding) {
  switch (finding.kind_case()) {
    case ham::v1::EvaluationFinding::kInputs:
      return Apply(finding.inputs());
    case ham::v1::EvaluationFinding::kBlock:
      return Apply(finding.block());
    case ham::v1::EvaluationFinding::kChecks:
      return Apply(finding.checks());
    default:
      return Contradiction("it is of an unknown kind");
  }
}

absl::Status EvaluationPool::CheckInputs(const EvaluationRecord& inputs) const {
  const size_t rows = inputs.data.row_ids.size();
  if (rows == 0 || inputs.attacks.empty()) return Contradiction("it has no images or no attacks");
  if (static_cast<int>(inputs.attacks.size()) != spec_.suite().attacks_size() ||
      inputs.threat.norm != spec_.suite().norm() || inputs.threat.epsilon != spec_.suite().epsilon() ||
      inputs.data.name != spec_.data().name() || inputs.model.name != spec_.model().name() ||
      inputs.seed != spec_.seed() || inputs.precision != spec_.precision()) {
    return Contradiction("its inputs are not those of the spec");
  }
  const EvaluationOutcomes& samples = inputs.samples;
  if (samples.rows() != rows) return Contradiction(absl::StrCat("samples has ", samples.rows(), " rows, data ", rows));
  if (absl::Status status = CheckOutcomes(samples, inputs.classes(), static_cast<int32_t>(inputs.attacks.size()));
      !status.ok()) {
    return Contradiction(std::string(status.message()));
  }
  const EvaluationOutcomes fresh = EvaluationPlan(samples.labels, 1).outcomes();
  if (samples.clean_predictions != fresh.clean_predictions || samples.broken_by != fresh.broken_by) {
    return Contradiction("its inputs have outcomes");
  }
  return absl::OkStatus();
}

absl::Status EvaluationPool::Apply(const std::string& inputs) {
  const absl::StatusOr<nlohmann::json> json = ParseStrictJson(inputs);
  if (!json.ok()) return Contradiction(std::string(json.status().message()));
  absl::StatusOr<EvaluationRecord> record = ReadRecordJson(*json);
  if (!record.ok()) return Contradiction(std::string(record.status().message()));
  if (absl::Status status = CheckInputs(*record); !status.ok()) return status;
  if (inputs_) {
    // Samples of the first one were all unbroken, as these are.
    EvaluationRecord first = WithoutCosts(*inputs_);
    first.samples = EvaluationPlan(inputs_->samples.labels, check_stage()).outcomes();
    const std::string difference = DifferenceOf(first, *record);
    if (!difference.empty()) {
      return Contradiction(absl::StrCat("its ranks differ in ", difference,
                                        "; an evaluation needs workers of one build with the same files from its first "
                                        "block to its last: submit it again"));
    }
  } else {
    inputs_ = *std::move(record);
    plan_.emplace(inputs_->samples.labels, check_stage());
    progress_.emplace(inputs_->attacks);
    devices_.insert(inputs_->device);
    return absl::OkStatus();
  }
  devices_.insert(record->device);
  inputs_->device = absl::StrJoin(devices_, "; ");
  return absl::OkStatus();
}

absl::Status EvaluationPool::Apply(const ham::v1::EvaluationBlock& block) {
  if (!inputs_) return Contradiction("a block came before the inputs");
  const bool even = block.predictions_size() == block.rows_size() && block.margins_size() == block.rows_size();
  const size_t rows = inputs_->data.row_ids.size();
  if (!even || std::any_of(block.rows().begin(), block.rows().end(), [&](uint32_t row) { return row >= rows; })) {
    return Contradiction("a block does not have one outcome for each of its rows");
  }
  if (std::any_of(block.predictions().begin(), block.predictions().end(),
                  [&](int32_t p) { return p < 0 || p >= inputs_->classes(); })) {
    return Contradiction("a prediction is no class");
  }
  const FinishedBlock finished = FromProto(block, inputs_->samples.labels);
  if (absl::Status status = plan_->Finish(finished.block, finished.outcomes); !status.ok()) {
    return Contradiction(std::string(status.message()));
  }
  progress_->Add(finished);
  stage_ended_ = plan_->Left(block.stage()) == 0;
  if (block.stage() != kCleanStage) {
    RecordedAttack& attack = inputs_->attacks[static_cast<size_t>(block.stage())];
    attack.seconds += finished.seconds;
    attack.forward_passes += finished.forward_passes;
    attack.gradient_passes += finished.gradient_passes;
  }
  Settle(finished.block);
  return absl::OkStatus();
}

absl::Status EvaluationPool::Apply(const ham::v1::EvaluationChecks& checks) {
  if (!inputs_ || !plan_->done()) return Contradiction("the checks came before all images were evaluated");
  if (warnings_) return absl::OkStatus();  // two ranks had them
  std::vector<EvaluationWarning> warnings;
  for (const ham::v1::EvaluationWarning& warning : checks.warnings()) {
    if (!ham::v1::EvaluationWarning::Type_IsValid(warning.type()) ||
        warning.type() == ham::v1::EvaluationWarning::TYPE_UNSPECIFIED) {
      return Contradiction(absl::StrCat("warning ", warning.type(), " is unknown"));
    }
    warnings.push_back({static_cast<WarningType>(warning.type()), warning.message()});
  }
  warnings_ = std::move(warnings);
  in_hand_.clear();
  return absl::OkStatus();
}

// It is in nobody's hand any more.
void EvaluationPool::Settle(const WorkBlock& block) {
  for (auto& [rank, blocks] : in_hand_) std::erase(blocks, block);
}

void EvaluationPool::Retain(int attempt, const std::set<int>& ranks) {
  for (auto& [rank, blocks] : in_hand_) {
    if (attempt == attempt_ && ranks.count(rank) != 0) continue;
    for (const WorkBlock& block : blocks) {
      if (block.stage != check_stage()) plan_->GiveBack(block);
    }
    blocks.clear();
  }
  attempt_ = attempt;
  std::erase_if(in_hand_, [&ranks](const auto& entry) { return ranks.count(entry.first) == 0; });
  for (const int rank : ranks) in_hand_.try_emplace(rank);
}

bool EvaluationPool::ChecksWait() const {
  if (!plan_->done() || warnings_) return false;
  return std::none_of(in_hand_.begin(), in_hand_.end(), [this](const auto& entry) {
    return std::any_of(entry.second.begin(), entry.second.end(),
                       [this](const WorkBlock& block) { return block.stage == check_stage(); });
  });
}

bool EvaluationPool::HasWorkFor(int rank) const {
  const auto found = in_hand_.find(rank);
  if (!inputs_ || found == in_hand_.end() || found->second.size() >= kBlocksInHand) return false;
  return plan_->Waiting() > 0 || ChecksWait();
}

// Smaller ones towards the end of a stage, so that no rank waits long for the last of another.
size_t EvaluationPool::BlockRows() const {
  const int64_t usual = spec_.resources().device() == "cpu" ? kBlockRowsOnHost : kBlockRowsOnDevice;
  const int64_t parts = static_cast<int64_t>(in_hand_.size() * kBlocksInHand);
  const int64_t share = (static_cast<int64_t>(plan_->Waiting()) + parts - 1) / parts;
  return static_cast<size_t>(std::clamp(share, kLeastBlockRows, usual));
}

std::vector<WorkBlock> EvaluationPool::WorkOf(int rank) {
  const auto found = in_hand_.find(rank);
  if (!inputs_ || found == in_hand_.end()) return {};
  std::vector<WorkBlock>& blocks = found->second;
  while (blocks.size() < kBlocksInHand) {
    std::optional<WorkBlock> block = plan_->Take(BlockRows());
    if (!block) break;
    blocks.push_back(*std::move(block));
  }
  if (ChecksWait()) blocks.push_back({check_stage(), CheckedRows(plan_->outcomes())});
  return blocks;
}

EvaluationRecord EvaluationPool::Record() const {
  EvaluationRecord record = *inputs_;
  record.samples = plan_->outcomes();
  record.warnings = *warnings_;
  for (EvaluationWarning& warning : OutcomeWarnings(record)) record.warnings.push_back(std::move(warning));
  return record;
}

std::optional<ham::v1::EvaluationMetrics> EvaluationPool::Metrics() const {
  if (!inputs_ || !progress_->any()) return std::nullopt;
  const AccuracyBounds bounds = BoundsOf(plan_->outcomes(), inputs_->data.class_names.size());
  ham::v1::EvaluationMetrics metrics;
  metrics.set_split(inputs_->data.split);
  metrics.set_rows(static_cast<int32_t>(inputs_->data.row_ids.size()));
  metrics.mutable_class_names()->Add(inputs_->data.class_names.begin(), inputs_->data.class_names.end());
  metrics.mutable_per_class_rows()->Add(bounds.rows_by_class.begin(), bounds.rows_by_class.end());
  metrics.set_clean_accuracy(bounds.clean);
  metrics.mutable_per_class_clean_accuracy()->Add(bounds.clean_by_class.begin(), bounds.clean_by_class.end());
  ham::v1::SuiteMetrics& suite = *metrics.add_suites();
  suite.set_name(spec_.suite().name());
  suite.set_epsilon(inputs_->threat.epsilon);
  suite.set_norm(inputs_->threat.norm);
  suite.set_budget(absl::StrJoin(inputs_->attacks, "; ", [](std::string* out, const RecordedAttack& attack) {
    absl::StrAppend(out, AttackText(attack));
  }));
  suite.set_robust_accuracy(bounds.robust);
  suite.mutable_per_class_robust_accuracy()->Add(bounds.robust_by_class.begin(), bounds.robust_by_class.end());
  suite.set_worst_class(static_cast<int32_t>(bounds.worst_class));
  suite.set_worst_class_name(inputs_->data.class_names[bounds.worst_class]);
  suite.set_worst_class_robust_accuracy(bounds.robust_by_class[bounds.worst_class]);
  double seconds = 0;
  for (const RecordedAttack& attack : inputs_->attacks) seconds += attack.seconds;
  metrics.set_evaluation_seconds(seconds);
  metrics.set_final(done());
  if (done()) return metrics;
  ham::v1::EvaluationProgress& progress = *metrics.mutable_progress();
  progress.set_stage(progress_->stage_name());
  progress.set_rows_left(static_cast<int32_t>(plan_->Left(progress_->stage())));
  progress.set_ranks(static_cast<int32_t>(in_hand_.size()));
  const std::optional<double> left = progress_->SecondsLeft(*plan_);
  if (left) progress.set_seconds_left(*left / static_cast<double>(std::max<size_t>(in_hand_.size(), 1)));
  return metrics;
}

}  // namespace ham::server
