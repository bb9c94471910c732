#include "worker/trainer/metric_text.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace ham::trainer {
namespace {

using nlohmann::json;

std::string Percent(const json& share) {
  return share.is_number() ? absl::StrFormat("%.1f %%", 100 * share.get<double>()) : std::string("-");
}

std::string Plain(const json& number) {
  return number.is_number() ? absl::StrFormat("%.4g", number.get<double>()) : number.get<std::string>();
}

std::string TrainText(const json& train) {
  return absl::StrFormat("%s loss %s  hard %s  kept %s  %s images/s",
                         train["end_of_epoch"].get<bool>() ? "epoch" : "train", Plain(train["loss"]),
                         Percent(train["hard_share"]), Percent(train["kept_share"]), Plain(train["images_per_second"]));
}

std::string EvaluationText(const json& evaluation) {
  std::string out = absl::StrFormat("%s  %d images  clean %s", evaluation["split"].get<std::string>(),
                                    evaluation["rows"].get<int64_t>(), Percent(evaluation["clean_accuracy"]));
  for (const json& suite : evaluation["suites"]) {
    absl::StrAppend(&out, "  ", suite["name"].get<std::string>(), " ", Percent(suite["robust_accuracy"]), " (worst ",
                    suite["worst_class_name"].get<std::string>(), " ", Percent(suite["worst_class_robust_accuracy"]),
                    ")");
  }
  return out;
}

std::string SummaryText(const json& summary) {
  std::string out = absl::StrFormat("done  attack %.1f s  train %.1f s  evaluation %.1f s  hard %s",
                                    summary["attack_seconds"].get<double>(), summary["train_seconds"].get<double>(),
                                    summary["evaluation_seconds"].get<double>(), Percent(summary["hard_share"]));
  for (const json& reason : summary["inexact_because"]) {
    absl::StrAppend(&out, "  not exact: ", reason.get<std::string>());
  }
  return out;
}

}  // namespace

std::string MetricText(const json& point) {
  const std::string place =
      absl::StrFormat("epoch %d  iteration %d  ", point["epoch"].get<int>(), point["iteration"].get<int64_t>());
  if (point.contains("train")) return place + TrainText(point["train"]);
  if (point.contains("evaluation")) return place + EvaluationText(point["evaluation"]);
  if (point.contains("notice")) return place + point["notice"]["message"].get<std::string>();
  return place + SummaryText(point["summary"]);
}

}  // namespace ham::trainer
