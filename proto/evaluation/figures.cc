#include "proto/evaluation/figures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>

#include "absl/strings/str_cat.h"
#include "proto/evaluation/intervals.h"

namespace ham {
namespace {

struct ClassTally {
  int64_t rows = 0;
  int64_t clean = 0;
  int64_t robust = 0;
};

// Figures over classes, of the robust accuracies of those that have rows.
struct OverClasses {
  double worst;
  double worst_k;
  double worst_30_percent;
  double gap;
  double standard_deviation;
  double normalized_standard_deviation;
};

constexpr auto kOverClasses = std::array{&OverClasses::worst,
                                         &OverClasses::worst_k,
                                         &OverClasses::worst_30_percent,
                                         &OverClasses::gap,
                                         &OverClasses::standard_deviation,
                                         &OverClasses::normalized_standard_deviation};

double MeanOf(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// Sorts `accuracies`, so that the order of classes changes no bit.
OverClasses Summarize(std::span<double> accuracies, int32_t worst_k) {
  std::sort(accuracies.begin(), accuracies.end());
  const size_t classes = accuracies.size();
  const double mean = MeanOf(accuracies);
  double squares = 0;
  for (const double accuracy : accuracies) squares += (accuracy - mean) * (accuracy - mean);
  OverClasses out;
  out.worst = accuracies.front();
  out.worst_k = MeanOf(accuracies.first(std::min(classes, static_cast<size_t>(worst_k))));
  out.worst_30_percent = MeanOf(accuracies.first((3 * classes + 9) / 10));
  out.gap = accuracies.back() - accuracies.front();
  out.standard_deviation = std::sqrt(squares / static_cast<double>(classes));
  out.normalized_standard_deviation =
      mean > 0 ? out.standard_deviation / mean : std::numeric_limits<double>::quiet_NaN();
  return out;
}

std::vector<ClassTally> TallyOf(const EvaluationOutcomes& outcomes, int32_t classes) {
  std::vector<ClassTally> tallies(static_cast<size_t>(classes));
  for (size_t i = 0; i < outcomes.rows(); ++i) {
    ClassTally& tally = tallies[static_cast<size_t>(outcomes.labels[i])];
    ++tally.rows;
    tally.clean += outcomes.CleanRight(i);
    tally.robust += outcomes.Robust(i);
  }
  return tallies;
}

Estimate Proportion(int64_t part, int64_t whole) {
  const Interval interval = WilsonInterval(part, whole);
  return {Share(part, whole), interval.low, interval.high};
}

// Values of each of kOverClasses in each resample of the images of each class.
std::array<std::vector<double>, kOverClasses.size()> Resample(const std::vector<ClassTally>& tallies,
                                                              const FigureOptions& options) {
  std::array<std::vector<double>, kOverClasses.size()> values;
  Resampler resampler(options.seed);
  std::vector<double> accuracies(tallies.size());
  for (int32_t b = 0; b < options.resamples; ++b) {
    for (size_t c = 0; c < tallies.size(); ++c) {
      const ClassTally& tally = tallies[c];
      accuracies[c] = Share(resampler.Draw<2>({tally.robust, tally.rows - tally.robust})[0], tally.rows);
    }
    const OverClasses over = Summarize(accuracies, options.worst_k);
    for (size_t i = 0; i < kOverClasses.size(); ++i) values[i].push_back(over.*kOverClasses[i]);
  }
  return values;
}

void FillOverClasses(const std::vector<ClassTally>& all, const FigureOptions& options, EvaluationFigures* figures) {
  std::vector<ClassTally> tallies;  // of classes with rows
  std::vector<double> accuracies;
  double worst = std::numeric_limits<double>::infinity();
  for (size_t c = 0; c < all.size(); ++c) {
    if (all[c].rows == 0) continue;
    tallies.push_back(all[c]);
    accuracies.push_back(Share(all[c].robust, all[c].rows));
    if (accuracies.back() < worst) {
      worst = accuracies.back();
      figures->worst_class = static_cast<int32_t>(c);
    }
  }
  const OverClasses over = Summarize(accuracies, options.worst_k);
  std::array<std::vector<double>, kOverClasses.size()> resampled = Resample(tallies, options);
  const auto fields = std::array{&figures->worst_class_robust_accuracy,
                                 &figures->worst_k_robust_accuracy,
                                 &figures->worst_30_percent_robust_accuracy,
                                 &figures->best_worst_gap,
                                 &figures->standard_deviation,
                                 &figures->normalized_standard_deviation};
  for (size_t i = 0; i < kOverClasses.size(); ++i) {
    const Interval interval = PercentileInterval(std::move(resampled[i]));
    *fields[i] = {over.*kOverClasses[i], interval.low, interval.high};
  }
}

std::vector<AttackEffect> EffectsOf(const EvaluationOutcomes& outcomes, const std::vector<ClassTally>& tallies,
                                    int32_t attacks) {
  std::vector<AttackEffect> effects(static_cast<size_t>(attacks));
  for (AttackEffect& effect : effects) effect.broken_by_class.resize(tallies.size());
  for (size_t i = 0; i < outcomes.rows(); ++i) {
    if (outcomes.broken_by[i] == kNotBroken) continue;
    const auto attack = static_cast<size_t>(outcomes.broken_by[i]);
    ++effects[attack].broken_by_class[static_cast<size_t>(outcomes.labels[i])];
  }
  const auto rows = static_cast<int64_t>(outcomes.rows());
  std::vector<int64_t> robust;
  for (const ClassTally& tally : tallies) robust.push_back(tally.clean);
  for (AttackEffect& effect : effects) {
    double worst = std::numeric_limits<double>::infinity();
    for (size_t c = 0; c < tallies.size(); ++c) {
      robust[c] -= effect.broken_by_class[c];
      if (tallies[c].rows > 0) worst = std::min(worst, Share(robust[c], tallies[c].rows));
    }
    effect.worst_class_robust_accuracy = worst;
    effect.robust_accuracy = Share(std::accumulate(robust.begin(), robust.end(), int64_t{0}), rows);
    effect.lowered_by =
        Share(std::accumulate(effect.broken_by_class.begin(), effect.broken_by_class.end(), int64_t{0}), rows);
  }
  return effects;
}

absl::Status Impossible(size_t row, const std::string& what) {
  return absl::DataLossError(absl::StrCat("samples: row ", row, " ", what));
}

absl::Status CheckRow(const EvaluationOutcomes& outcomes, size_t i, int32_t classes, int32_t attacks) {
  const int32_t label = outcomes.labels[i], clean = outcomes.clean_predictions[i], broken = outcomes.broken_by[i],
                attacked = outcomes.attack_predictions[i];
  for (const int32_t value : {label, clean, attacked}) {
    if (value < 0 || value >= classes) {
      return Impossible(i, absl::StrCat("has class ", value, "; allowed is 0 to ", classes - 1));
    }
  }
  if (broken < kNotBroken || broken >= attacks) {
    return Impossible(i, absl::StrCat("is broken by attack ", broken, " of ", attacks));
  }
  if (broken == kNotBroken && attacked != clean) {
    return Impossible(i, absl::StrCat("is broken by no attack, but its class changed from ", clean, " to ", attacked));
  }
  if (broken != kNotBroken && clean != label) {
    return Impossible(i, "is broken by an attack, but was wrong on the clean image; only right ones are attacked");
  }
  if (broken != kNotBroken && attacked == label) {
    return Impossible(i, "is broken by an attack, but its class there is the label");
  }
  const float margin = outcomes.margins[i];
  if (outcomes.Robust(i) ? margin < 0 : margin > 0) {
    return Impossible(i, absl::StrCat("is ", outcomes.Robust(i) ? "" : "not ", "robust, but has a margin of ", margin));
  }
  return absl::OkStatus();
}

}  // namespace

double Share(int64_t part, int64_t whole) {
  return whole == 0 ? std::numeric_limits<double>::quiet_NaN() : static_cast<double>(part) / static_cast<double>(whole);
}

absl::Status CheckOutcomes(const EvaluationOutcomes& outcomes, int32_t classes, int32_t attacks) {
  const size_t rows = outcomes.rows();
  if (rows == 0) return absl::DataLossError("samples: there is no row; an evaluation needs one");
  for (const size_t size : {outcomes.clean_predictions.size(), outcomes.broken_by.size(),
                            outcomes.attack_predictions.size(), outcomes.margins.size()}) {
    if (size == rows) continue;
    return absl::DataLossError(absl::StrCat("samples: there are ", rows, " labels, but ", size, " other outcomes"));
  }
  for (size_t i = 0; i < rows; ++i) {
    if (absl::Status status = CheckRow(outcomes, i, classes, attacks); !status.ok()) return status;
  }
  return absl::OkStatus();
}

EvaluationFigures ComputeFigures(const EvaluationOutcomes& outcomes, int32_t classes, int32_t attacks,
                                 const FigureOptions& options) {
  EvaluationFigures figures;
  figures.options = options;
  const std::vector<ClassTally> tallies = TallyOf(outcomes, classes);
  ClassTally all;
  for (const ClassTally& tally : tallies) {
    all = {all.rows + tally.rows, all.clean + tally.clean, all.robust + tally.robust};
    figures.classes.push_back({static_cast<int32_t>(tally.rows), Proportion(tally.clean, tally.rows),
                               Proportion(tally.robust, tally.rows),
                               Proportion(tally.clean - tally.robust, tally.rows)});
  }
  figures.clean_accuracy = Proportion(all.clean, all.rows);
  figures.robust_accuracy = Proportion(all.robust, all.rows);
  figures.boundary_error = Proportion(all.clean - all.robust, all.rows);
  FillOverClasses(tallies, options, &figures);
  const auto width = static_cast<size_t>(classes);
  figures.confusion.resize(width * width);
  for (size_t i = 0; i < outcomes.rows(); ++i) {
    ++figures.confusion[static_cast<size_t>(outcomes.labels[i]) * width +
                        static_cast<size_t>(outcomes.attack_predictions[i])];
  }
  figures.attacks = EffectsOf(outcomes, tallies, attacks);
  return figures;
}

double Rho(const EvaluationFigures& figures, const EvaluationFigures& base) {
  const auto gain = [](const Estimate& now, const Estimate& before) {
    return (now.value - before.value) / before.value;
  };
  return gain(figures.worst_class_robust_accuracy, base.worst_class_robust_accuracy) +
         gain(figures.robust_accuracy, base.robust_accuracy);
}

}  // namespace ham
