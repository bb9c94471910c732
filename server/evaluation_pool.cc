#include "server/evaluation_pool.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <nlohmann/json.hpp>
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/evaluation/outcome_warnings.h"
#include "proto/evaluation/record_json.h"
#include "proto/known_attacks.h"
#include "proto/strict_json.h"
#include "proto/utf8.h"

namespace ham::server {
namespace {

// One to work on, one so that the rank need not wait for the next.
constexpr size_t kBlocksInHand = 2;
constexpr int64_t kLeastBlockRows = 16;  // below, rows would be padded
// What a rank has had for so long, and for so many times what it should take, another may try.
constexpr absl::Duration kPatience = absl::Minutes(1);
constexpr double kPatienceShare = 5;
constexpr size_t kMostMessageBytes = 500;
constexpr size_t kMostDeviceBytes = 900;  // of the record's 1,000
constexpr double kMostSeconds = 1e9;

absl::Status Contradiction(const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat("what a rank found contradicts the evaluation: ", Shown(what, kMostMessageBytes)));
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

// Whether this is the attack that was asked for; of what it has no choice in, records say nothing.
bool IsAsAsked(const RecordedAttack& recorded, const ham::v1::EvaluationAttack& asked) {
  const KnownAttack* const known = FindAttack(asked.name());
  if (known == nullptr || recorded.name != asked.name() || recorded.steps != asked.steps() ||
      recorded.restarts != asked.restarts() || recorded.targets != asked.targets()) {
    return false;
  }
  if (known->losses.size() > 1 && recorded.loss != asked.loss()) return false;
  return !known->takes_steps_of_a_size() ||
         (recorded.step_size == asked.step_size() && recorded.random_start == asked.random_start() &&
          recorded.judged_at == asked.judged_at());
}

bool AreFirstRows(const std::vector<uint32_t>& ids) {
  for (uint32_t i = 0; i < ids.size(); ++i) {
    if (ids[i] != i) return false;
  }
  return true;
}

// What a block says of its rows, where it can be so at all.
absl::StatusOr<FinishedBlock> FromProto(const ham::v1::EvaluationBlock& block, const EvaluationRecord& inputs,
                                        const std::vector<int32_t>& labels) {
  if (block.predictions_size() != block.rows_size() || block.margins_size() != block.rows_size()) {
    return Contradiction("a block does not have one outcome for each of its rows");
  }
  if (!(block.seconds() >= 0 && block.seconds() <= kMostSeconds)) {
    return Contradiction(absl::StrCat("a block took ", block.seconds(), " seconds"));
  }
  FinishedBlock out;
  out.block = {block.stage(), {block.rows().begin(), block.rows().end()}};
  out.seconds = block.seconds();
  out.forward_passes = block.forward_passes();
  out.gradient_passes = block.gradient_passes();
  for (int i = 0; i < block.rows_size(); ++i) {
    const int32_t prediction = block.predictions(i);
    if (block.rows(i) >= labels.size()) return Contradiction(absl::StrCat("there is no row ", block.rows(i)));
    if (prediction < 0 || prediction >= inputs.classes()) {
      return Contradiction(absl::StrCat("prediction ", prediction, " is no class"));
    }
    const bool broken = prediction != labels[block.rows(i)];
    const float margin = block.margins(i);
    if (broken ? !(margin <= 0) : !(margin >= 0)) {
      return Contradiction(
          absl::StrCat("row ", block.rows(i), " is ", broken ? "" : "not ", "broken with margin ", margin));
    }
    out.outcomes.push_back({broken, prediction, margin});
  }
  return out;
}

// As many of them as records take.
std::string DeviceText(const std::set<std::string>& devices) {
  std::string text;
  size_t left = devices.size();
  for (const std::string& device : devices) {
    if (!text.empty() && text.size() + device.size() > kMostDeviceBytes) break;
    absl::StrAppend(&text, text.empty() ? "" : "; ", device);
    --left;
  }
  if (left > 0) absl::StrAppend(&text, "; and ", left, " others");
  return text;
}

}  // namespace

EvaluationPool::EvaluationPool(const ham::v1::EvaluateSpec& spec) : spec_(spec) {}

absl::Status EvaluationPool::Apply(const ham::v1::EvaluationFinding& finding) {
  if (!status_.ok()) return status_;
  switch (finding.kind_case()) {
    case ham::v1::EvaluationFinding::kInputs:
      return status_ = ApplyInputs(finding.inputs());
    case ham::v1::EvaluationFinding::kBlock:
      return status_ = ApplyBlock(finding.block());
    case ham::v1::EvaluationFinding::kChecks:
      return status_ = ApplyChecks(finding.checks());
    case ham::v1::EvaluationFinding::kDevice:
      return status_ = ApplyDevice(finding.device());
    default:
      return status_ = Contradiction("it is of an unknown kind");
  }
}

absl::Status EvaluationPool::CheckInputs(const EvaluationRecord& inputs) const {
  if (absl::Status status = CheckRecordInputs(inputs); !status.ok())
    return Contradiction(std::string(status.message()));
  const ham::v1::AttackSuite& suite = spec_.suite();
  bool as_asked = static_cast<int>(inputs.attacks.size()) == suite.attacks_size();
  for (int i = 0; as_asked && i < suite.attacks_size(); ++i) {
    as_asked = IsAsAsked(inputs.attacks[static_cast<size_t>(i)], suite.attacks(i));
  }
  const int rows = spec_.data().rows();
  if (!as_asked || inputs.threat.norm != suite.norm() || inputs.threat.epsilon != suite.epsilon() ||
      inputs.data.name != spec_.data().name() || inputs.data.split != "test" ||
      inputs.data.image_size != spec_.data().image_size() || inputs.model.name != spec_.model().name() ||
      inputs.model.activation != spec_.model().activation() || inputs.seed != spec_.seed() ||
      inputs.precision != spec_.precision() || !AreFirstRows(inputs.data.row_ids) ||
      (rows != 0 && inputs.data.row_ids.size() != static_cast<size_t>(rows))) {
    return Contradiction("its inputs are not those of the spec");
  }
  const EvaluationOutcomes fresh = OutcomesBefore(inputs.samples.labels);
  if (inputs.samples.clean_predictions != fresh.clean_predictions || inputs.samples.broken_by != fresh.broken_by) {
    return Contradiction("its inputs have outcomes");
  }
  return absl::OkStatus();
}

absl::StatusOr<EvaluationRecord> EvaluationPool::ReadInputs(const std::string& inputs) const {
  const absl::StatusOr<nlohmann::json> json = ParseStrictJson(inputs);
  if (!json.ok()) return Contradiction(std::string(json.status().message()));
  absl::StatusOr<EvaluationRecord> record = ReadRecordJson(*json);
  if (!record.ok()) return Contradiction(std::string(record.status().message()));
  if (absl::Status status = CheckInputs(*record); !status.ok()) return status;
  return record;
}

std::string EvaluationPool::DifferenceFromFirst(const EvaluationRecord& inputs) const {
  EvaluationRecord first = *inputs_;
  first.samples = OutcomesBefore(plan_->outcomes().labels);
  for (size_t i = 0; i < std::min(first.attacks.size(), inputs.attacks.size()); ++i) {
    first.attacks[i].seconds = inputs.attacks[i].seconds;
    first.attacks[i].forward_passes = inputs.attacks[i].forward_passes;
    first.attacks[i].gradient_passes = inputs.attacks[i].gradient_passes;
  }
  return DifferenceOf(first, inputs);
}

std::optional<std::string> EvaluationPool::DeviceOfSameInputs(const std::string& inputs) const {
  if (!status_.ok() || !inputs_) return std::nullopt;
  const absl::StatusOr<EvaluationRecord> record = ReadInputs(inputs);
  if (!record.ok() || !DifferenceFromFirst(*record).empty()) return std::nullopt;
  return record->device;
}

absl::Status EvaluationPool::ApplyInputs(const std::string& inputs) {
  absl::StatusOr<EvaluationRecord> record = ReadInputs(inputs);
  if (!record.ok()) return record.status();
  if (!inputs_) {
    inputs_ = *std::move(record);
    plan_.emplace(std::exchange(inputs_->samples, {}).labels, check_stage());
    progress_.emplace(inputs_->attacks);
    devices_.insert(inputs_->device);
    return absl::OkStatus();
  }
  if (const std::string difference = DifferenceFromFirst(*record); !difference.empty()) {
    return Contradiction(absl::StrCat("its ranks differ in ", difference,
                                      "; an evaluation needs workers of one build with the same files from its first "
                                      "block to its last: submit it again"));
  }
  return ApplyDevice(record->device);
}

absl::Status EvaluationPool::ApplyDevice(const std::string& device) {
  if (!inputs_) return Contradiction("a device came before the inputs");
  devices_.insert(Shown(device, kMostDeviceBytes));
  inputs_->device = DeviceText(devices_);
  return absl::OkStatus();
}

absl::Status EvaluationPool::ApplyBlock(const ham::v1::EvaluationBlock& block) {
  if (!inputs_) return Contradiction("a block came before the inputs");
  const absl::StatusOr<FinishedBlock> finished = FromProto(block, *inputs_, plan_->outcomes().labels);
  if (!finished.ok()) return finished.status();
  const size_t before = plan_->advances();
  if (absl::Status status = plan_->Finish(finished->block, finished->outcomes); !status.ok()) {
    return Contradiction(std::string(status.message()));
  }
  progress_->Add(*finished);
  stage_ended_ = plan_->Left(block.stage()) == 0;
  if (block.stage() != kCleanStage) AddCosts(*finished, plan_->advances() - before);
  // It is in nobody's hand any more.
  for (auto& [rank, held] : in_hand_) {
    std::erase_if(held, [&](const Held& one) { return one.block == finished->block; });
  }
  return absl::OkStatus();
}

// Of rows that were done before, their share is left out.
void EvaluationPool::AddCosts(const FinishedBlock& finished, size_t advanced) {
  RecordedAttack& attack = inputs_->attacks[static_cast<size_t>(finished.block.stage)];
  const double share = static_cast<double>(advanced) / static_cast<double>(finished.block.rows.size());
  attack.seconds += finished.seconds * share;
  const auto part = [share](uint64_t passes) {
    return share == 1 ? passes : static_cast<uint64_t>(static_cast<double>(passes) * share);
  };
  attack.forward_passes += part(finished.forward_passes);
  attack.gradient_passes += part(finished.gradient_passes);
}

absl::Status EvaluationPool::ApplyChecks(const ham::v1::EvaluationChecks& checks) {
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
  EvaluationRecord record = *inputs_;
  record.samples = plan_->outcomes();
  record.warnings = warnings;
  if (absl::Status status = CheckRecordInputs(record); !status.ok())
    return Contradiction(std::string(status.message()));
  warnings_ = std::move(warnings);
  in_hand_.clear();
  return absl::OkStatus();
}

void EvaluationPool::Retain(int attempt, const std::set<int>& ranks) {
  for (auto& [rank, held] : in_hand_) {
    if (attempt == attempt_ && ranks.count(rank) != 0) continue;
    for (const Held& one : held) {
      if (one.block.stage != check_stage()) plan_->GiveBack(one.block);
    }
    held.clear();
  }
  attempt_ = attempt;
  std::erase_if(in_hand_, [&ranks](const auto& entry) { return ranks.count(entry.first) == 0; });
  for (const int rank : ranks) in_hand_.try_emplace(rank);
}

bool EvaluationPool::ChecksWait() const {
  if (!plan_->done() || warnings_) return false;
  return std::none_of(in_hand_.begin(), in_hand_.end(), [this](const auto& entry) {
    return std::any_of(entry.second.begin(), entry.second.end(),
                       [this](const Held& one) { return one.block.stage == check_stage(); });
  });
}

// The block that a rank has had for longest, if that is too long; null if none is.
const EvaluationPool::Held* EvaluationPool::FindLate(absl::Duration now) const {
  const Held* late = nullptr;
  for (const auto& [rank, held] : in_hand_) {
    for (const Held& one : held) {
      const bool checks = one.block.stage == check_stage();
      const absl::Duration usual = absl::Seconds(checks ? 0 : progress_->SecondsOf(one.block).value_or(0));
      if (now - one.since <= std::max(kPatience * (checks ? kPatienceShare : 1), usual * kPatienceShare)) continue;
      if (late == nullptr || one.since < late->since) late = &one;
    }
  }
  return late;
}

bool EvaluationPool::HasWorkFor(int rank, absl::Duration now) const {
  const auto found = in_hand_.find(rank);
  if (!status_.ok() || !inputs_ || found == in_hand_.end() || found->second.size() >= kBlocksInHand) return false;
  return plan_->Waiting() > 0 || ChecksWait() || (found->second.empty() && FindLate(now) != nullptr);
}

// Smaller ones towards the end of a stage, so that no rank waits long for the last of another.
size_t EvaluationPool::BlockRows() const {
  const int64_t usual = spec_.resources().device() == "cpu" ? kBlockRowsOnHost : kBlockRowsOnDevice;
  const int64_t parts = static_cast<int64_t>(in_hand_.size() * kBlocksInHand);
  const int64_t share = (static_cast<int64_t>(plan_->Waiting()) + parts - 1) / parts;
  return static_cast<size_t>(std::clamp(share, kLeastBlockRows, usual));
}

std::vector<WorkBlock> EvaluationPool::WorkOf(int rank, absl::Duration now) {
  const auto found = in_hand_.find(rank);
  if (!status_.ok() || !inputs_ || found == in_hand_.end()) return {};
  std::vector<Held>& held = found->second;
  while (held.size() < kBlocksInHand) {
    std::optional<WorkBlock> block = plan_->Take(BlockRows());
    if (!block) break;
    held.push_back({*std::move(block), now});
  }
  if (ChecksWait()) held.push_back({{check_stage(), CheckedRows(plan_->outcomes())}, now});
  if (held.empty()) {
    if (const Held* late = FindLate(now); late != nullptr) held.push_back({late->block, now});
  }
  std::vector<WorkBlock> work;
  for (const Held& one : held) work.push_back(one.block);
  return work;
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
