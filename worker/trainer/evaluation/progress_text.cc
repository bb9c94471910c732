#include "worker/trainer/evaluation/progress_text.h"

#include <nlohmann/json.hpp>
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "worker/trainer/run_metrics.h"

namespace ham::trainer {

std::string ProgressText(const EvaluationPlan& plan, const EvaluationProgress& progress,
                         const std::vector<std::string>& class_names) {
  const AccuracyBounds bounds = BoundsOf(plan.outcomes(), class_names.size());
  std::string out =
      absl::StrFormat("%-7s %6d rows left  clean %5.1f %%  robust <= %5.1f %%  worst class <= %5.1f %% (%s)",
                      progress.stage_name(), plan.Left(progress.stage()), 100 * bounds.clean, 100 * bounds.robust,
                      100 * bounds.robust_by_class[bounds.worst_class], class_names[bounds.worst_class]);
  if (const double left = progress.SecondsLeft(plan).value_or(0); left > 0) {
    absl::StrAppend(&out, "  at most ", absl::FormatDuration(absl::Ceil(absl::Seconds(left), absl::Seconds(1))),
                    " left");
  }
  return out;
}

std::string ProgressJson(const EvaluationPlan& plan, const EvaluationProgress& progress,
                         const std::vector<std::string>& class_names) {
  const AccuracyBounds bounds = BoundsOf(plan.outcomes(), class_names.size());
  nlohmann::json by_class = nlohmann::json::array();
  for (const double share : bounds.robust_by_class) by_class.push_back(JsonNumber(share));
  return nlohmann::json({{"stage", progress.stage_name()},
                         {"rows_left", plan.Left(progress.stage())},
                         {"clean_accuracy_at_most", bounds.clean},
                         {"robust_accuracy_at_most", bounds.robust},
                         {"per_class_robust_accuracy_at_most", by_class},
                         {"worst_class", bounds.worst_class},
                         {"seconds_left_at_most", progress.SecondsLeft(plan).value_or(-1)}})
      .dump();
}

}  // namespace ham::trainer
