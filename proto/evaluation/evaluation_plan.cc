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

EvaluationPlan::EvaluationPlan(std::vector<int32_t> labels, int32_t attacks) : attacks_(attacks), rows_(labels.size()) {
  outcomes_.clean_predictions = labels;
  outcomes_.attack_predictions = labels;
  outcomes_.broken_by.assign(labels.size(), kNotBroken);
  outcomes_.margins.assign(labels.size(), std::numeric_limits<float>::infinity());
  outcomes_.labels = std::move(labels);
}

int32_t EvaluationPlan::FirstStageThatWaits() const {
  int32_t stage = std::numeric_limits<int32_t>::max();
  for (const Row& row : rows_) {
    if (row.state == State::kWaits) stage = std::min(stage, row.stage);
  }
  return stage;
}

size_t EvaluationPlan::Waiting() const {
  const int32_t stage = FirstStageThatWaits();
  return static_cast<size_t>(std::count_if(rows_.begin(), rows_.end(), [stage](const Row& row) {
    return row.state == State::kWaits && row.stage == stage;
  }));
}

std::optional<WorkBlock> EvaluationPlan::Take(size_t most) {
  WorkBlock block{FirstStageThatWaits(), {}};
  for (uint32_t i = 0; i < rows_.size() && block.rows.size() < most; ++i) {
    if (rows_[i].state != State::kWaits || rows_[i].stage != block.stage) continue;
    rows_[i].state = State::kUnderWork;
    block.rows.push_back(i);
  }
  if (block.rows.empty()) return std::nullopt;
  return block;
}

absl::Status EvaluationPlan::Check(const WorkBlock& block, const std::vector<RowOutcome>& outcomes) const {
  if (block.rows.size() != outcomes.size()) {
    return absl::DataLossError(
        absl::StrFormat("a block of %d rows has %d outcomes", block.rows.size(), outcomes.size()));
  }
  for (size_t i = 0; i < block.rows.size(); ++i) {
    const uint32_t row = block.rows[i];
    const bool in_order = i == 0 || row > block.rows[i - 1];
    const bool is_stage = block.stage >= kCleanStage && block.stage < attacks_;
    if (row >= rows_.size() || !in_order || !is_stage || rows_[row].stage < block.stage ||
        (rows_[row].stage == block.stage && rows_[row].state == State::kDone)) {
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
    if (rows_[block.rows[i]].stage == block.stage) Advance(block.rows[i], block.stage, outcomes[i]);
  }
  return absl::OkStatus();
}

void EvaluationPlan::Advance(uint32_t row, int32_t stage, const RowOutcome& outcome) {
  if (stage == kCleanStage) {
    outcomes_.clean_predictions[row] = outcome.prediction;
  } else if (outcome.broken) {
    outcomes_.broken_by[row] = stage;
  }
  outcomes_.attack_predictions[row] = outcome.prediction;
  outcomes_.margins[row] = outcome.broken ? outcome.margin : std::min(outcomes_.margins[row], outcome.margin);
  const bool ends = outcome.broken || stage + 1 == attacks_;
  rows_[row] = {stage + 1, ends ? State::kDone : State::kWaits};
  done_ += ends;
}

void EvaluationPlan::GiveBack(const WorkBlock& block) {
  for (const uint32_t row : block.rows) {
    if (rows_[row].state == State::kUnderWork && rows_[row].stage == block.stage) rows_[row].state = State::kWaits;
  }
}

size_t EvaluationPlan::Left(int32_t stage) const {
  return std::count_if(rows_.begin(), rows_.end(),
                       [&](const Row& row) { return row.state != State::kDone && row.stage <= stage; });
}

}  // namespace ham
