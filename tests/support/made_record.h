// A small record of an evaluation, and files of it.
#pragma once

#include <string>

#include "proto/evaluation/evaluation_record.h"

namespace ham::testing {

// Ten rows of three classes and none of a fourth, two attacks: 8 right, 5 robust. Row 2 falls to the first attack, row
// 6 to the second, row 8 to the first.
inline EvaluationOutcomes MadeOutcomes() {
  EvaluationOutcomes made;
  made.labels = {0, 0, 0, 0, 1, 1, 1, 2, 2, 2};
  made.clean_predictions = {0, 0, 0, 1, 1, 1, 1, 2, 2, 0};
  made.broken_by = {-1, -1, 0, -1, -1, -1, 1, -1, 0, -1};
  made.attack_predictions = {0, 0, 1, 1, 1, 1, 3, 2, 0, 0};
  made.margins = {0.5f, 0.25f, -0.125f, -1, 2, 0, -0.5f, 1, -3, -2};
  return made;
}

// What an evaluation gives to MakeRecord.
inline EvaluationRecord MadeInputs() {
  EvaluationRecord record;
  record.model = {
      "wrn-28-10", std::string(64, 'a'), "silu", true, {0.5}, {0.25}, "weights/\"best\" \u00fc.safetensors"};
  record.data = {"toy", "test", std::string(64, 'b'), 32, {"ant", "bee", "cat", "dog"}, {}};
  for (uint32_t id = 0; id < 10; ++id) record.data.row_ids.push_back(7 + id);
  record.threat = {"linf", 8.0 / 255};
  RecordedAttack pgd;
  pgd.name = "pgd";
  pgd.loss = "cross_entropy";
  pgd.steps = 20;
  pgd.step_size = 2.0 / 255;
  pgd.restarts = 3;
  pgd.random_start = true;
  pgd.judged_at = "last";
  pgd.seconds = 1.5;
  pgd.forward_passes = 24;
  pgd.gradient_passes = uint64_t{1} << 60;
  RecordedAttack targeted;
  targeted.name = "apgd-t";
  targeted.steps = 100;
  targeted.targets = 3;
  record.attacks = {pgd, targeted};
  record.precision = "fp32";
  record.device = "toy CPU, avx2";
  record.seed = ~uint64_t{0};
  record.code_version = "0.1.0";
  record.build_id = "0123456789ab";
  record.samples = MadeOutcomes();
  record.warnings = {{WarningType::kFewerTargets, "apgd-t aimed at 3 classes; there are no 9 others"}};
  return record;
}

inline EvaluationRecord MadeRecord() { return MakeRecord(MadeInputs()).value(); }

}  // namespace ham::testing
