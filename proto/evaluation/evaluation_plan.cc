#include "proto/evaluation/evaluation_plan.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_format.h"

namespace ham {

std::vector<uint32_t> CheckedRows(const EvaluationOutcomes& outcomes) {
  std::vector<uint32_t> rows;
  for (uint32_t row = 0; row < outcomes.rows() && rows.size() < kCheckedRows; ++row) {
    if (outcomes.CleanRight(row)) rows.push_back(row);
  }
  return rows;
}

EvaluationOutcomes OutcomesBefore(std::vector<int32_t> labels) {
  EvaluationOutcomes out;
  out.clean_predictions = labels;
  out.attack_predictions = labels;
  out.broken_by.assign(labels.size(), kNotBroken);
  out.margins.assign(labels.size(), std::numeric_limits<float>::infinity());
  out.labels = std::move(labels);
  return out;
}

EvaluationPlan::EvaluationPlan(std::vector<int32_t> labels, int32_t attacks)
    : attacks_(attacks), rows_(labels.size()), stages_(static_cast<size_t>(attacks) + 1) {
  for (uint32_t row = 0; row < labels.size(); ++row) stages_[0].waiting.insert(stages_[0].waiting.end(), row);
  stages_[0].left = labels.size();
  outcomes_ = OutcomesBefore(std::move(labels));
}

std::vector<EvaluationPlan::Stage>::const_iterator EvaluationPlan::FirstThatWaits() const {
  return std::find_if(stages_.begin(), stages_.end(), [](const Stage& stage) { return !stage.waiting.empty(); });
}

size_t EvaluationPlan::Waiting() const {
  const auto stage = FirstThatWaits();
  return stage == stages_.end() ? 0 : stage->waiting.size();
}

std::optional<WorkBlock> EvaluationPlan::Take(size_t most) {
  const auto first = FirstThatWaits() - stages_.begin();
  if (first == std::ssize(stages_)) return std::nullopt;
  std::set<uint32_t>& waiting = stages_[static_cast<size_t>(first)].waiting;
  const auto end = std::next(waiting.begin(), static_cast<std::ptrdiff_t>(std::min(most, waiting.size())));
  WorkBlock block{static_cast<int32_t>(first) + kCleanStage, {waiting.begin(), end}};
  waiting.erase(waiting.begin(), end);
  return block;
}

absl::Status EvaluationPlan::Check(const WorkBlock& block, const std::vector<RowOutcome>& outcomes) const {
  if (block.rows.size() != outcomes.size()) {
    return absl::DataLossError(
        absl::StrFormat("a block of %d rows has %d outcomes", block.rows.size(), outcomes.size()));
  }
  if (block.rows.empty() || block.stage < kCleanStage || block.stage >= attacks_) {
    return absl::DataLossError(
        absl::StrFormat("a block of %d rows is of stage %d, of %d attacks", block.rows.size(), block.stage, attacks_));
  }
  for (size_t i = 0; i < block.rows.size(); ++i) {
    const uint32_t row = block.rows[i];
    const bool in_order = i == 0 || row > block.rows[i - 1];
    if (row >= rows_.size() || !in_order || rows_[row].stage < block.stage ||
        (rows_[row].stage == block.stage && rows_[row].done)) {
      return absl::DataLossError(absl::StrFormat("row %d is not at stage %d", row, block.stage));
    }
    const RowOutcome& outcome = outcomes[i];
    if (outcome.broken == (outcome.prediction == outcomes_.labels[row]) || outcome.prediction < -1) {
      return absl::DataLossError(absl::StrFormat("row %d, of class %d, is %s with prediction %d", row,
                                                 outcomes_.labels[row], outcome.broken ? "broken" : "unbroken",
                                                 outcome.prediction));
    }
  }
  return absl::OkStatus();
}

absl::Status EvaluationPlan::Finish(const WorkBlock& block, const std::vector<RowOutcome>& outcomes) {
  if (absl::Status status = Check(block, outcomes); !status.ok()) return status;
  for (size_t i = 0; i < block.rows.size(); ++i) {
    if (rows_[block.rows[i]].stage == block.stage) Advance(block.rows[i], outcomes[i]);
  }
  return absl::OkStatus();
}

void EvaluationPlan::Advance(uint32_t row, const RowOutcome& outcome) {
  Row& now = rows_[row];
  if (now.stage == kCleanStage) {
    outcomes_.clean_predictions[row] = outcome.prediction;
  } else if (outcome.broken) {
    outcomes_.broken_by[row] = now.stage;
  }
  outcomes_.attack_predictions[row] = outcome.prediction;
  outcomes_.margins[row] = outcome.broken ? outcome.margin : std::min(outcomes_.margins[row], outcome.margin);
  StageOf(now).waiting.erase(row);
  --StageOf(now).left;
  ++now.stage;
  ++advances_;
  now.done = outcome.broken || now.stage == attacks_;
  done_ += now.done;
  if (now.done) return;
  StageOf(now).waiting.insert(row);
  ++StageOf(now).left;
}

void EvaluationPlan::GiveBack(const WorkBlock& block) {
  for (const uint32_t row : block.rows) {
    if (!rows_[row].done && rows_[row].stage == block.stage) StageOf(rows_[row]).waiting.insert(row);
  }
}

size_t EvaluationPlan::Left(int32_t stage) const {
  size_t left = 0;
  for (int32_t s = kCleanStage; s <= std::min(stage, attacks_ - 1); ++s)
    left += stages_[static_cast<size_t>(s + 1)].left;
  return left;
}

}  // namespace ham
