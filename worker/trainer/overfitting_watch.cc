#include "worker/trainer/overfitting_watch.h"

#include <cmath>

#include "absl/strings/str_format.h"

namespace ham::trainer {
namespace {

constexpr int kEvaluationsInARow = 2;
constexpr double kStandardErrors = 2;

double Accuracy(const RobustPoint& point) {
  return static_cast<double>(point.validation) / static_cast<double>(point.validation_rows);
}

// Of one evaluation's accuracy.
double Variance(const RobustPoint& point) {
  const double p = Accuracy(point);
  return p * (1 - p) / static_cast<double>(point.validation_rows);
}

}  // namespace

std::optional<std::string> OverfittingWatch::Add(const RobustPoint& point) {
  if (best_.epoch == 0 || point.measure != best_.measure || point.validation > best_.validation) {
    best_ = point;
    below_ = 0;
    return std::nullopt;
  }
  const double noise = kStandardErrors * std::sqrt(Variance(best_) + Variance(point));
  const bool overfits = Accuracy(best_) - Accuracy(point) > noise && point.train > best_.train;
  below_ = overfits || below_ >= kEvaluationsInARow ? below_ + 1 : 0;
  if (below_ != kEvaluationsInARow) return std::nullopt;
  return absl::StrFormat(
      "robust overfitting: on %d validation images robust accuracy is %.1f %% after epoch %d and was %.1f %% after "
      "epoch "
      "%d, while on training images it rose from %.1f %% to %.1f %%; the best checkpoint by validation is kept",
      point.validation_rows, 100 * Accuracy(point), point.epoch, 100 * Accuracy(best_), best_.epoch, 100 * best_.train,
      100 * point.train);
}

nlohmann::json OverfittingWatch::ToJson() const {
  return {{"measure", best_.measure},
          {"epoch", best_.epoch},
          {"train", best_.train},
          {"validation", best_.validation},
          {"validation_rows", best_.validation_rows},
          {"below", below_}};
}

OverfittingWatch OverfittingWatch::FromJson(const nlohmann::json& json) {
  OverfittingWatch out;
  json.at("measure").get_to(out.best_.measure);
  json.at("epoch").get_to(out.best_.epoch);
  json.at("train").get_to(out.best_.train);
  json.at("validation").get_to(out.best_.validation);
  json.at("validation_rows").get_to(out.best_.validation_rows);
  json.at("below").get_to(out.below_);
  return out;
}

}  // namespace ham::trainer
