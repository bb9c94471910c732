// Which images of an evaluation are still to be attacked, by what. Pure; one thread.
//
// Each image goes through the stages on its own: first the network alone, then the attacks in order, until one breaks
// it. What becomes of it depends on nothing else, so work can be handed out in blocks of any size and come back in any
// order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "proto/evaluation/figures.h"
#include "proto/evaluation/row_outcome.h"

namespace ham {

inline constexpr int32_t kCleanStage = -1;  // the network alone; the others are numbers of attacks
// Rows of a block.
inline constexpr int64_t kBlockRowsOnHost = 128, kBlockRowsOnDevice = 512;

struct WorkBlock {
  int32_t stage = kCleanStage;
  std::vector<uint32_t> rows;  // their places in the evaluation, ascending
  bool operator==(const WorkBlock&) const = default;
};

// A block with what became of it.
struct FinishedBlock {
  WorkBlock block;
  std::vector<RowOutcome> outcomes;  // one a row
  double seconds = 0;
  uint64_t forward_passes = 0;   // images
  uint64_t gradient_passes = 0;  // likewise
};

// Rows on which the network itself is checked after the attacks: the first ones that it classifies right.
inline constexpr uint32_t kCheckedRows = 128;
std::vector<uint32_t> CheckedRows(const EvaluationOutcomes& outcomes);

// Of images of which nothing is known yet: they count as right and unbroken.
EvaluationOutcomes OutcomesBefore(std::vector<int32_t> labels);

class EvaluationPlan {
 public:
  // Of each image, in [0, 2^31).
  EvaluationPlan(std::vector<int32_t> labels, int32_t attacks);

  // Up to `most` rows of the first stage that some wait for, which are then under work; none: all are, or are done.
  std::optional<WorkBlock> Take(size_t most);
  // Whether these can be outcomes of the rows of a block, in its order. DataLoss for rows that have not come to its
  // stage and outcomes that cannot be.
  absl::Status Check(const WorkBlock& block, const std::vector<RowOutcome>& outcomes) const;
  // Takes them, whoever has these rows under work; rows that are through the stage stay as they are. Errors of Check,
  // then nothing is changed.
  absl::Status Finish(const WorkBlock& block, const std::vector<RowOutcome>& outcomes);
  // Times that a row has got through a stage.
  size_t advances() const { return advances_; }
  // Rows that Take() could give at once: those that wait at the first stage that any waits for.
  size_t Waiting() const;
  // Rows under work wait again.
  void GiveBack(const WorkBlock& block);

  bool done() const { return done_ == rows_.size(); }
  // Rows that have not got through `stage` yet, those included that may be broken before.
  size_t Left(int32_t stage) const;
  // Complete when done(); before, rows count as unbroken that nothing has broken yet.
  const EvaluationOutcomes& outcomes() const { return outcomes_; }

 private:
  struct Row {
    int32_t stage = kCleanStage;  // next one, or the one under work
    bool done = false;
  };
  struct Stage {
    std::set<uint32_t> waiting;
    size_t left = 0;  // rows whose next one it is, those under work included
  };
  Stage& StageOf(const Row& row) { return stages_[static_cast<size_t>(row.stage + 1)]; }
  // The first one that any row waits for; else the end.
  std::vector<Stage>::const_iterator FirstThatWaits() const;
  void Advance(uint32_t row, const RowOutcome& outcome);

  const int32_t attacks_;
  std::vector<Row> rows_;
  std::vector<Stage> stages_;  // from the clean one on
  size_t done_ = 0;
  size_t advances_ = 0;
  EvaluationOutcomes outcomes_;
};

}  // namespace ham
