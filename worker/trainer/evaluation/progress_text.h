// What `ham-trainer evaluate` says while it works. Pure.
#pragma once

#include <string>
#include <vector>

#include "proto/evaluation/evaluation_progress.h"

namespace ham::trainer {

// One line, or one JSON object: how far it is, upper bounds of robust accuracy in all and by class, and of the seconds
// left; -1 and no word of it where no attack has a pace yet.
std::string ProgressText(const EvaluationPlan& plan, const EvaluationProgress& progress,
                         const std::vector<std::string>& class_names);
std::string ProgressJson(const EvaluationPlan& plan, const EvaluationProgress& progress,
                         const std::vector<std::string>& class_names);

}  // namespace ham::trainer
