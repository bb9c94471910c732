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
#include "absl/status/statusor.h"
#include "absl/time/time.h"
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

  // Takes a finding of the log, in its order. InvalidArgument, in one sentence, for one that contradicts those before
  // or the spec: then the job cannot go on, and all later ones have the same answer.
  absl::Status Apply(const ham::v1::EvaluationFinding& finding);
  // The first contradiction.
  const absl::Status& status() const { return status_; }

  // The device in inputs that say the same as the first ones of all else; nullopt for any others.
  std::optional<std::string> DeviceOfSameInputs(const std::string& inputs) const;
  bool KnowsDevice(const std::string& device) const { return devices_.count(device) != 0; }

  // These ranks are at work now; what others had in hand waits again. Ranks of another attempt are others.
  void Retain(int attempt, const std::set<int>& ranks);
  // Whether WorkOf would give the rank something new. `now`: steady.
  bool HasWorkFor(int rank, absl::Duration now) const;
  // All that the rank of the newest attempt is to do now: what it has in hand, with more where that is little. Where
  // nothing waits, an idle rank gets what another should have done long ago: the first outcome counts.
  std::vector<WorkBlock> WorkOf(int rank, absl::Duration now);

  // All images are evaluated, and the network was checked.
  bool done() const { return status_.ok() && warnings_.has_value(); }
  // Grows with each image that got through a stage.
  size_t advances() const { return plan_ ? plan_->advances() : 0; }
  // Call when done: the record, for MakeRecord to complete.
  EvaluationRecord Record() const;

  // Accuracies so far, with how far it is unless done; nullopt before the first outcome.
  std::optional<ham::v1::EvaluationMetrics> Metrics() const;
  // The last finding was the last of its stage.
  bool stage_ended() const { return stage_ended_; }

 private:
  struct Held {
    WorkBlock block;
    absl::Duration since;
  };

  absl::Status ApplyInputs(const std::string& inputs);
  absl::Status ApplyDevice(const std::string& device);
  absl::Status ApplyBlock(const ham::v1::EvaluationBlock& block);
  absl::Status ApplyChecks(const ham::v1::EvaluationChecks& checks);
  absl::StatusOr<EvaluationRecord> ReadInputs(const std::string& inputs) const;
  absl::Status CheckInputs(const EvaluationRecord& inputs) const;
  // In words; "" for none.
  std::string DifferenceFromFirst(const EvaluationRecord& inputs) const;
  void AddCosts(const FinishedBlock& finished, size_t advanced);
  int32_t check_stage() const { return static_cast<int32_t>(inputs_->attacks.size()); }
  bool ChecksWait() const;
  const Held* FindLate(absl::Duration now) const;
  size_t BlockRows() const;

  const ham::v1::EvaluateSpec spec_;
  absl::Status status_;
  // What the first rank said, without samples, with what the attacks took so far; unset before.
  std::optional<EvaluationRecord> inputs_;
  std::set<std::string> devices_;       // of all ranks so far
  std::optional<EvaluationPlan> plan_;  // with inputs_
  std::optional<EvaluationProgress> progress_;
  bool stage_ended_ = false;
  std::optional<std::vector<EvaluationWarning>> warnings_;

  int attempt_ = 0;
  std::map<int, std::vector<Held>> in_hand_;  // by rank
};

}  // namespace ham::server
