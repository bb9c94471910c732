#include "worker/trainer/run_metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace ham::trainer {
namespace {

using nlohmann::json;

double Share(int64_t part, int64_t whole) {
  return whole == 0 ? std::numeric_limits<double>::quiet_NaN() : static_cast<double>(part) / static_cast<double>(whole);
}

json Shares(const std::vector<int64_t>& parts, const std::vector<int64_t>& wholes) {
  json out = json::array();
  for (size_t i = 0; i < parts.size(); ++i) out.push_back(JsonNumber(Share(parts[i], wholes[i])));
  return out;
}

// "cross_entropy 20 x 0.01, margin 40 x 0.01 x 2 restarts, apgd cross_entropy 100, apgd-t 100 x 9 targets, square 5000"
std::string Budget(const AttackSuite& suite) {
  std::string out;
  for (const EvaluationAttack& attack : suite.attacks) {
    if (!out.empty()) out += ", ";
    if (attack.name != AttackName::kPgd) absl::StrAppend(&out, AttackNameOf(attack), " ");
    if (attack.name == AttackName::kPgd || attack.name == AttackName::kApgd) {
      absl::StrAppend(&out, AttackLossName(attack.loss), " ");
    }
    absl::StrAppend(&out, attack.steps);
    if (attack.name == AttackName::kPgd) absl::StrAppendFormat(&out, " x %.4g", attack.step_size);
    if (attack.targets > 0) absl::StrAppendFormat(&out, " x %d targets", attack.targets);
    if (attack.restarts > 1) absl::StrAppendFormat(&out, " x %d restarts", attack.restarts);
    if (attack.name == AttackName::kPgd && attack.judged_at == JudgedAt::kAny) absl::StrAppend(&out, " at any iterate");
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
          {"norm", NormName(suite.norm)},
          {"budget", Budget(suite)},
          {"robust_accuracy", JsonNumber(Share(Total(robust), Total(rows)))},
          {"per_class_robust_accuracy", Shares(robust, rows)},
          {"worst_class", worst},
          {"worst_class_name", class_names[worst]},
          {"worst_class_robust_accuracy", JsonNumber(worst_share)}};
}

double RankSkew(const std::vector<int64_t>& kept_by_rank) {
  if (kept_by_rank.empty()) return std::numeric_limits<double>::quiet_NaN();
  const auto ranks = static_cast<double>(kept_by_rank.size());
  const double mean = static_cast<double>(Total(kept_by_rank)) / ranks;
  return static_cast<double>(*std::max_element(kept_by_rank.begin(), kept_by_rank.end())) / mean;
}

}  // namespace

void TrainWindow::Add(const StepSums& step, bool skipped) {
  if (step.finite) {
    sums.loss += step.loss;
    sums.weight += step.weight;
  }
  sums.rows += step.rows;
  sums.hard_rows += step.hard_rows;
  sums.kept_rows += step.kept_rows;
  ++iterations;
  skipped_iterations += skipped;
  if (!skipped) gradient_norm += step.gradient_norm;
  sums.counts.Add(step.counts);
}

double FlopsOf(Phase phase, const std::vector<int64_t>& passes, const ModelFlops& model) {
  const auto of = [&](Pass pass) { return static_cast<double>(passes[pass]) * static_cast<double>(model.Of(pass)); };
  switch (phase) {
    case Phase::kAttack:
      return of(kInputGradientPass);
    case Phase::kMining:
      return of(kForwardPass);
    case Phase::kTrain:
      return of(kTrainingPass);
    default:
      return 0;
  }
}

int64_t Total(const std::vector<int64_t>& counts) {
  int64_t total = 0;
  for (int64_t count : counts) total += count;
  return total;
}

json JsonNumber(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

json WindowJson(const TrainWindow& window) {
  json counts = json::array();
  for (const auto member : StepCounts::Members) counts.push_back(window.sums.counts.*member);
  return {{"loss", window.sums.loss},
          {"weight", window.sums.weight},
          {"rows", window.sums.rows},
          {"hard_rows", window.sums.hard_rows},
          {"kept_rows", window.sums.kept_rows},
          {"counts", counts},
          {"phase_seconds", window.seconds.seconds},
          {"iterations", window.iterations},
          {"skipped_iterations", window.skipped_iterations},
          {"gradient_norm", window.gradient_norm}};
}

TrainWindow WindowOf(const json& window) {
  TrainWindow out;
  window.at("loss").get_to(out.sums.loss);
  window.at("weight").get_to(out.sums.weight);
  window.at("rows").get_to(out.sums.rows);
  window.at("hard_rows").get_to(out.sums.hard_rows);
  window.at("kept_rows").get_to(out.sums.kept_rows);
  for (size_t i = 0; i < StepCounts::Members.size(); ++i) {
    window.at("counts").at(i).get_to(out.sums.counts.*StepCounts::Members[i]);
  }
  window.at("phase_seconds").get_to(out.seconds.seconds);
  window.at("iterations").get_to(out.iterations);
  window.at("skipped_iterations").get_to(out.skipped_iterations);
  window.at("gradient_norm").get_to(out.gradient_norm);
  return out;
}

json TrainMetricsJson(const TrainWindow& window, const FlopScale& scale, double learning_rate, int64_t total_iterations,
                      bool end_of_epoch, bool mining) {
  const StepSums& sums = window.sums;
  json seconds = json::object();
  for (const Phase phase : kPhases) {
    if (phase != Phase::kEvaluation) seconds[PhaseName(phase)] = window.seconds[phase];
  }
  const double flops = scale.model.OfAll(sums.counts.passes);
  json out = {{"loss", JsonNumber(sums.loss / sums.weight)},  // 0 / 0 is NaN, as promised
              {"learning_rate", learning_rate},
              {"hard_share", JsonNumber(Share(sums.hard_rows, sums.rows))},
              {"kept_share", JsonNumber(Share(sums.kept_rows, sums.rows))},
              {"images_per_second", JsonNumber(static_cast<double>(sums.rows) / window.seconds.Step())},
              {"attack_seconds", window.seconds.Attack()},
              {"train_seconds", window.seconds.Train()},
              {"phase_seconds", std::move(seconds)},
              {"model_flops", flops},
              {"model_flops_utilization", JsonNumber(scale.Utilization(flops, window.seconds.Step()))},
              {"iterations", window.iterations},
              {"skipped_iterations", window.skipped_iterations},
              {"total_iterations", total_iterations},
              {"end_of_epoch", end_of_epoch},
              {"rank_skew", JsonNumber(RankSkew(sums.counts.kept_by_rank))},
              {"gradient_norm",
               JsonNumber(window.gradient_norm / static_cast<double>(window.iterations - window.skipped_iterations))}};
  if (mining) out["steps_to_boundary"] = sums.counts.boundary;
  if (end_of_epoch) out["confidence_histogram"] = sums.counts.confidence;
  if (end_of_epoch && mining) out["per_class_hard_share"] = Shares(sums.counts.class_hard, sums.counts.class_rows);
  return out;
}

json EvaluationMetricsJson(const EvaluationCounts& counts, const std::vector<AttackSuite>& suites,
                           const std::vector<std::string>& class_names, const char* split, double seconds,
                           const FlopScale& scale, bool final) {
  const double flops = scale.model.OfAll(counts.passes);
  json suite_list = json::array();
  for (size_t s = 0; s < suites.size(); ++s) {
    suite_list.push_back(SuiteJson(suites[s], counts.robust[s], counts.rows, class_names));
  }
  return {{"split", split},
          {"rows", Total(counts.rows)},
          {"class_names", class_names},
          {"per_class_rows", counts.rows},
          {"clean_accuracy", JsonNumber(Share(Total(counts.clean), Total(counts.rows)))},
          {"per_class_clean_accuracy", Shares(counts.clean, counts.rows)},
          {"suites", std::move(suite_list)},
          {"evaluation_seconds", seconds},
          {"model_flops", flops},
          {"model_flops_utilization", JsonNumber(scale.Utilization(flops, seconds))},
          {"final", final}};
}

json RunSummaryJson(const RunTotals& totals, const FlopScale& scale, int64_t iterations) {
  return {{"attack_seconds", totals.attack_seconds},
          {"train_seconds", totals.train_seconds},
          {"evaluation_seconds", totals.evaluation_seconds},
          {"hard_share", totals.mined_rows == 0 ? 1.0 : Share(totals.hard_rows, totals.mined_rows)},
          {"iterations", iterations},
          {"model_flops", totals.model_flops},
          {"model_flops_utilization", JsonNumber(scale.Utilization(totals.model_flops, totals.step_seconds))},
          {"inexact_because", totals.inexact_because}};
}

}  // namespace ham::trainer
