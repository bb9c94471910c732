#include "worker/trainer/run_metrics.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_format.h"

namespace ham::trainer {
namespace {

using nlohmann::json;

double Share(int64_t part, int64_t whole) {
  return whole == 0 ? std::numeric_limits<double>::quiet_NaN() : static_cast<double>(part) / static_cast<double>(whole);
}

int64_t Total(const std::vector<int64_t>& counts) {
  int64_t total = 0;
  for (int64_t count : counts) total += count;
  return total;
}

json Shares(const std::vector<int64_t>& parts, const std::vector<int64_t>& wholes) {
  json out = json::array();
  for (size_t i = 0; i < parts.size(); ++i) out.push_back(JsonNumber(Share(parts[i], wholes[i])));
  return out;
}

// "cross_entropy 20 x 0.01, margin 40 x 0.01 x 2 restarts"
std::string Budget(const AttackSuite& suite) {
  std::string out;
  for (const EvaluationAttack& attack : suite.attacks) {
    absl::StrAppendFormat(&out, "%s%s %d x %.4g", out.empty() ? "" : ", ", AttackLossName(attack.loss), attack.steps,
                          attack.step_size);
    if (attack.restarts > 1) absl::StrAppendFormat(&out, " x %d restarts", attack.restarts);
  }
  return out;
}

json SuiteJson(const AttackSuite& suite, const std::vector<int64_t>& robust, const std::vector<int64_t>& rows,
               const std::vector<std::string>& class_names) {
  size_t worst = 0;
  double worst_share = std::numeric_limits<double>::infinity();
  for (size_t k = 0; k < robust.size(); ++k) {
    const double share = Share(robust[k], rows[k]);
    if (share < worst_share) {
      worst = k;
      worst_share = share;
    }
  }
  return {{"name", suite.name},
          {"epsilon", suite.epsilon},
          {"budget", Budget(suite)},
          {"robust_accuracy", JsonNumber(Share(Total(robust), Total(rows)))},
          {"per_class_robust_accuracy", Shares(robust, rows)},
          {"worst_class", worst},
          {"worst_class_name", class_names[worst]},
          {"worst_class_robust_accuracy", JsonNumber(worst_share)}};
}

}  // namespace

void TrainWindow::Add(const StepSums& step, const StepSeconds& step_seconds, bool skipped) {
  if (step.finite) {
    sums.loss += step.loss;
    sums.weight += step.weight;
  }
  sums.rows += step.rows;
  sums.hard_rows += step.hard_rows;
  sums.kept_rows += step.kept_rows;
  seconds.attack += step_seconds.attack;
  seconds.train += step_seconds.train;
  seconds.reduce += step_seconds.reduce;
  seconds.total += step_seconds.total;
  ++iterations;
  skipped_iterations += skipped;
}

json JsonNumber(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

json TrainMetricsJson(const TrainWindow& window, double learning_rate, int64_t total_iterations, bool end_of_epoch) {
  const StepSums& sums = window.sums;
  return {{"loss", JsonNumber(sums.loss / sums.weight)},  // 0 / 0 is NaN, as promised
          {"learning_rate", learning_rate},
          {"hard_share", JsonNumber(Share(sums.hard_rows, sums.rows))},
          {"kept_share", JsonNumber(Share(sums.kept_rows, sums.rows))},
          {"images_per_second", JsonNumber(static_cast<double>(sums.rows) / window.seconds.total)},
          {"attack_seconds", window.seconds.attack},
          {"train_seconds", window.seconds.train},
          {"iterations", window.iterations},
          {"skipped_iterations", window.skipped_iterations},
          {"total_iterations", total_iterations},
          {"end_of_epoch", end_of_epoch}};
}

json EvaluationMetricsJson(const EvaluationCounts& counts, const std::vector<AttackSuite>& suites,
                           const std::vector<std::string>& class_names, double seconds, bool final) {
  json suite_list = json::array();
  for (size_t s = 0; s < suites.size(); ++s) {
    suite_list.push_back(SuiteJson(suites[s], counts.robust[s], counts.rows, class_names));
  }
  return {{"split", "test"},
          {"rows", Total(counts.rows)},
          {"class_names", class_names},
          {"per_class_rows", counts.rows},
          {"clean_accuracy", JsonNumber(Share(Total(counts.clean), Total(counts.rows)))},
          {"per_class_clean_accuracy", Shares(counts.clean, counts.rows)},
          {"suites", std::move(suite_list)},
          {"evaluation_seconds", seconds},
          {"final", final}};
}

json RunSummaryJson(const RunTotals& totals, int64_t iterations) {
  return {{"attack_seconds", totals.attack_seconds},
          {"train_seconds", totals.train_seconds},
          {"evaluation_seconds", totals.evaluation_seconds},
          {"hard_share", totals.mined_rows == 0 ? 1.0 : Share(totals.hard_rows, totals.mined_rows)},
          {"iterations", iterations}};
}

}  // namespace ham::trainer
