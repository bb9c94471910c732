// Attacks and distances as the command line names them. Pure; any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/trainer/perturbation.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// "8/255" or "0.031": above 0 and, of `norm`, up to 1 (linf) or 100 (l2). InvalidArgument names `flag`.
absl::StatusOr<double> ParseDistance(const std::string& flag, const std::string& text, Norm norm);

// "standard" stands for the four of AutoAttack. NAME[:KEY=VALUE...] with commas between, names and keys as in
// EvaluationAttack of proto/ham/v1/job.proto: "apgd,apgd-t:targets=3,pgd:steps=50:loss=margin". What is not named has
// the default of a job's spec. InvalidArgument says what is not known or out of range.
absl::StatusOr<std::vector<EvaluationAttack>> ParseAttacks(const std::string& text, const Ball& ball);

}  // namespace ham::trainer
