// An evaluation of the rows of tests/support/made_record.h, as the ranks of its job find it.
#pragma once

#include "ham/v1/evaluation.pb.h"
#include "ham/v1/job.pb.h"
#include "proto/evaluation/evaluation_plan.h"
#include "proto/evaluation/record_json.h"
#include "tests/support/made_record.h"

namespace ham::server {

using ham::v1::EvaluationFinding;

inline EvaluationRecord Inputs() {
  EvaluationRecord record = ham::testing::MadeInputs();
  record.samples = EvaluationPlan(record.samples.labels, 2).outcomes();
  for (uint32_t i = 0; i < record.data.row_ids.size(); ++i) record.data.row_ids[i] = i;
  for (RecordedAttack& attack : record.attacks) {
    attack.seconds = 0;
    attack.forward_passes = attack.gradient_passes = 0;
  }
  record.warnings.clear();
  return record;
}

inline ham::v1::EvaluateSpec Spec() {
  const EvaluationRecord record = Inputs();
  ham::v1::EvaluateSpec spec;
  spec.mutable_model()->set_name(record.model.name);
  spec.mutable_model()->set_activation(record.model.activation);
  spec.mutable_data()->set_name(record.data.name);
  spec.mutable_data()->set_image_size(record.data.image_size);
  spec.mutable_suite()->set_name("both");
  spec.mutable_suite()->set_norm(record.threat.norm);
  spec.mutable_suite()->set_epsilon(record.threat.epsilon);
  for (const RecordedAttack& recorded : record.attacks) {
    ham::v1::EvaluationAttack& attack = *spec.mutable_suite()->add_attacks();
    attack.set_name(recorded.name);
    attack.set_loss(recorded.loss.empty() ? "dlr" : recorded.loss);
    attack.set_steps(recorded.steps);
    attack.set_step_size(recorded.step_size);
    attack.set_restarts(recorded.restarts);
    attack.set_targets(recorded.targets);
    attack.set_random_start(recorded.name == "pgd" ? recorded.random_start : true);
    attack.set_judged_at(recorded.judged_at.empty() ? "any" : recorded.judged_at);
  }
  spec.set_precision(record.precision);
  spec.set_seed(record.seed);
  spec.mutable_resources()->set_device("cpu");
  return spec;
}

inline EvaluationFinding Said(const EvaluationRecord& inputs) {
  EvaluationFinding finding;
  finding.set_inputs(RecordJson(inputs).dump());
  return finding;
}

// What MadeOutcomes() has of these rows at this stage.
inline EvaluationFinding Found(const WorkBlock& work) {
  const EvaluationOutcomes made = ham::testing::MadeOutcomes();
  EvaluationFinding finding;
  ham::v1::EvaluationBlock& block = *finding.mutable_block();
  block.set_stage(work.stage);
  for (const uint32_t row : work.rows) {
    const bool broken = work.stage == kCleanStage ? !made.CleanRight(row) : made.broken_by[row] == work.stage;
    block.add_rows(row);
    block.add_predictions(broken ? made.attack_predictions[row] : made.labels[row]);
    block.add_margins(broken || made.Robust(row) ? made.margins[row] : 5);
  }
  block.set_seconds(1.5);
  block.set_forward_passes(100);
  block.set_gradient_passes(10);
  return finding;
}

inline EvaluationFinding Checked() {
  EvaluationFinding finding;
  ham::v1::EvaluationWarning& warning = *finding.mutable_checks()->add_warnings();
  warning.set_type(ham::v1::EvaluationWarning::ZERO_GRADIENTS);
  warning.set_message("all are 0");
  return finding;
}

// Of a block, or of the checks.
inline EvaluationFinding DoneWith(const WorkBlock& work) { return work.stage == 2 ? Checked() : Found(work); }

}  // namespace ham::server
