// The work of one evaluation job: what its ranks are to do now, and what they have found. But for who works on what it
// follows from the findings in the job's log, so that a coordinator that starts anew goes on where the last one was.
//
// Pure; one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "ham/v1/evaluation.pb.h"
#include "ham/v1/job.pb.h"
#include "ham/v1/metrics.pb.h"
#include "proto/evaluation/evaluation_plan.h"
#include "proto/evaluation/evaluation_progress.h"
#include "proto/evaluation/evaluation_record.h"

namespace ham::server {

class EvaluationPool {
 public:
  // `spec`: resolved.
  explicit EvaluationPool(const ham::v1::EvaluateSpec& spec);

  // Takes a finding of the log, in its order. InvalidArgument, in one sentence, and nothing changed, for one that
  // contradicts those before or the spec: the job cannot go on.
  absl::Status Apply(const ham::v1::EvaluationFinding& finding);

  // These ranks are at work now; what others had in hand waits again. Ranks of another attempt are others.
  void Retain(int attempt, const std::set<int>& ranks);
  // Whether WorkOf would give the rank something new.
  bool HasWorkFor(int rank) const;
  // All that the rank of the newest attempt is to do now: what it has in hand, with more where that is little.
  std::vector<WorkBlock> WorkOf(int rank);

  // All images are evaluated, and the network was checked.
  bool done() const { return warnings_.has_value(); }
  // Call when done: the record, for MakeRecord to complete.
  EvaluationRecord Record() const;

  // Accuracies so far, with how far it is unless done; nullopt before the first outcome.
  std::optional<ham::v1::EvaluationMetrics> Metrics() const;
  // The last finding was the last of its stage.
  bool stage_ended() const { return stage_ended_; }

 private:
  absl::Status Apply(const std::string& inputs);
  absl::Status Apply(const ham::v1::EvaluationBlock& block);
  absl::Status Apply(const ham::v1::EvaluationChecks& checks);
  absl::Status CheckInputs(const EvaluationRecord& inputs) const;
  int32_t check_stage() const { return static_cast<int32_t>(inputs_->attacks.size()); }
  bool ChecksWait() const;
  size_t BlockRows() const;
  void Settle(const WorkBlock& block);

  const ham::v1::EvaluateSpec spec_;
  std::optional<EvaluationRecord> inputs_;  // with what the attacks took so far; unset before the first rank's word
  std::set<std::string> devices_;           // of all ranks so far
  std::optional<EvaluationPlan> plan_;      // with inputs_
  std::optional<EvaluationProgress> progress_;
  bool stage_ended_ = false;
  std::optional<std::vector<EvaluationWarning>> warnings_;

  int attempt_ = 0;
  std::map<int, std::vector<WorkBlock>> in_hand_;  // by rank
};

}  // namespace ham::server
