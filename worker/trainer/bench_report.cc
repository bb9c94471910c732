#include "worker/trainer/bench_report.h"

#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace ham::trainer {
namespace {

using nlohmann::json;

struct BenchRow {
  std::string name;
  double seconds;
  double flops;
  std::optional<double> share;
};

std::vector<BenchRow> PhaseRows(const BenchReport& report) {
  std::vector<BenchRow> rows;
  for (const Phase phase : kPhases) {
    if (phase == Phase::kEvaluation) continue;
    const double seconds = report.window.seconds[phase];
    const double flops = FlopsOf(phase, report.window.sums.counts.passes, report.scale.model);
    rows.push_back({PhaseName(phase), seconds, flops, seconds / report.seconds});
  }
  return rows;
}

BenchRow TotalRow(const BenchReport& report) {
  return {"total", report.seconds, report.scale.model.OfAll(report.window.sums.counts.passes), 1.0};
}

BenchRow EvaluationRow(const BenchReport& report) {
  return {"evaluation", report.window.seconds[Phase::kEvaluation], report.evaluation_flops, std::nullopt};
}

double HardShare(const TrainWindow& window) {
  return static_cast<double>(window.sums.hard_rows) / static_cast<double>(window.sums.rows);
}

double ImagesPerSecond(const BenchReport& report) {
  return static_cast<double>(report.window.sums.rows) / report.seconds;
}

json RowJson(const BenchRow& row, const FlopScale& scale) {
  json out = {{"seconds", row.seconds},
              {"flops", row.flops},
              {"flops_per_second", JsonNumber(row.flops / row.seconds)},
              {"share_of_peak", JsonNumber(scale.Utilization(row.flops, row.seconds))}};
  if (row.share) out["share"] = JsonNumber(*row.share);
  return out;
}

std::string RowText(const BenchRow& row, const FlopScale& scale, double unit) {
  std::string line = absl::StrFormat("%-10s %9.3f", row.name, row.seconds);
  absl::StrAppend(&line, row.share ? absl::StrFormat(" %6.1f %%", 100 * *row.share) : "        -");
  if (row.flops == 0) return absl::StrCat(line, "           -          -         -\n");
  absl::StrAppendFormat(&line, " %11.5g %10.4g %7.1f %%\n", row.flops / unit, row.flops / row.seconds / unit,
                        100 * scale.Utilization(row.flops, row.seconds));
  return line;
}

}  // namespace

json BenchJson(const BenchReport& report) {
  const BenchRow total = TotalRow(report);
  json phases = json::object();
  for (const BenchRow& row : PhaseRows(report)) phases[row.name] = RowJson(row, report.scale);
  json out = {{"model", report.model},
              {"precision", report.precision},
              {"epoch", report.epoch},
              {"world_size", report.world_size},
              {"threads_per_rank", report.threads},
              {"iterations", report.window.iterations},
              {"seconds", report.seconds},
              {"images_per_second", ImagesPerSecond(report)},
              {"hard_share", HardShare(report.window)},
              {"phases", std::move(phases)},
              {"model_flops", total.flops},
              {"model_flops_utilization", JsonNumber(report.scale.Utilization(total.flops, total.seconds))},
              {"matmul_peak_flops_per_second", JsonNumber(report.scale.peak_per_second)}};
  if (report.evaluation_rows > 0) {
    out["evaluation"] = RowJson(EvaluationRow(report), report.scale);
    out["evaluation"]["rows"] = report.evaluation_rows;
  }
  return out;
}

std::string BenchTable(const BenchReport& report) {
  const bool tera = report.scale.peak_per_second >= 2e12;
  const double unit = tera ? 1e12 : 1e9;
  const char* const name = tera ? "TFLOP" : "GFLOP";
  std::string out = absl::StrFormat(
      "%s, %s, epoch %d, %d x %d threads; matrix products reach %.4g %s/s\n%-10s %9s %8s %11s %10s %9s\n", report.model,
      report.precision, report.epoch, report.world_size, report.threads, report.scale.peak_per_second / unit, name,
      "PHASE", "SECONDS", "SHARE", name, absl::StrCat(name, "/s"), "OF PEAK");
  for (const BenchRow& row : PhaseRows(report)) absl::StrAppend(&out, RowText(row, report.scale, unit));
  const BenchRow total = TotalRow(report);
  absl::StrAppend(&out, RowText(total, report.scale, unit));
  if (report.evaluation_rows > 0) absl::StrAppend(&out, RowText(EvaluationRow(report), report.scale, unit));
  absl::StrAppendFormat(&out, "%.1f images/s, %d iterations, hard %.1f %%, model FLOPs utilisation %.1f %%\n",
                        ImagesPerSecond(report), report.window.iterations, 100 * HardShare(report.window),
                        100 * report.scale.Utilization(total.flops, total.seconds));
  if (report.evaluation_rows > 0) {
    absl::StrAppendFormat(&out, "evaluation: %d images, %.1f images/s\n", report.evaluation_rows,
                          static_cast<double>(report.evaluation_rows) / report.window.seconds[Phase::kEvaluation]);
  }
  return out;
}

}  // namespace ham::trainer
