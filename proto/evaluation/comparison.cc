#include "proto/evaluation/comparison.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "proto/evaluation/intervals.h"
#include "proto/utf8.h"

namespace ham {
namespace {

// Rows of a class by the outcomes of both models.
enum Kind { kOnlyA, kOnlyB, kBoth, kNeither, kKinds };
using PairCounts = std::array<int64_t, kKinds>;

int64_t RowsOf(const PairCounts& counts) { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

struct Pairs {
  std::vector<PairCounts> clean, robust;  // by class
};

Pairs CountPairs(const EvaluationOutcomes& a, const EvaluationOutcomes& b, int32_t classes) {
  const auto kind = [](bool in_a, bool in_b) { return in_a ? (in_b ? kBoth : kOnlyA) : (in_b ? kOnlyB : kNeither); };
  Pairs pairs{std::vector<PairCounts>(static_cast<size_t>(classes)),
              std::vector<PairCounts>(static_cast<size_t>(classes))};
  for (size_t i = 0; i < a.rows(); ++i) {
    const auto c = static_cast<size_t>(a.labels[i]);
    ++pairs.clean[c][kind(a.CleanRight(i), b.CleanRight(i))];
    ++pairs.robust[c][kind(a.Robust(i), b.Robust(i))];
  }
  return pairs;
}

struct Differences {
  double average = 0;
  double worst_class = 0;
  std::vector<double> by_class;  // NaN without rows
};

Differences DifferencesOf(const std::vector<PairCounts>& pairs) {
  Differences out;
  int64_t rows = 0, gained = 0;
  double worst_a = std::numeric_limits<double>::infinity(), worst_b = worst_a;
  for (const PairCounts& counts : pairs) {
    const int64_t n = RowsOf(counts);
    out.by_class.push_back(Share(counts[kOnlyB] - counts[kOnlyA], n));
    if (n == 0) continue;
    rows += n;
    gained += counts[kOnlyB] - counts[kOnlyA];
    worst_a = std::min(worst_a, Share(counts[kBoth] + counts[kOnlyA], n));
    worst_b = std::min(worst_b, Share(counts[kBoth] + counts[kOnlyB], n));
  }
  out.average = Share(gained, rows);
  out.worst_class = worst_b - worst_a;
  return out;
}

struct DifferenceEstimates {
  Estimate average;
  Estimate worst_class;
  std::vector<Estimate> by_class;
};

DifferenceEstimates EstimatesOf(const std::vector<PairCounts>& pairs, const ComparisonOptions& options) {
  std::vector<double> averages, worst_classes;
  std::vector<std::vector<double>> by_class(pairs.size());
  Resampler resampler(options.seed);
  std::vector<PairCounts> drawn(pairs.size());
  for (int32_t b = 0; b < options.resamples; ++b) {
    for (size_t c = 0; c < pairs.size(); ++c) drawn[c] = resampler.Draw<kKinds>(pairs[c]);
    const Differences differences = DifferencesOf(drawn);
    averages.push_back(differences.average);
    worst_classes.push_back(differences.worst_class);
    for (size_t c = 0; c < pairs.size(); ++c) by_class[c].push_back(differences.by_class[c]);
  }
  const auto estimate = [](double value, std::vector<double> resampled) {
    const Interval interval = PercentileInterval(std::move(resampled));
    return Estimate{value, interval.low, interval.high};
  };
  const Differences seen = DifferencesOf(pairs);
  DifferenceEstimates out{
      estimate(seen.average, std::move(averages)), estimate(seen.worst_class, std::move(worst_classes)), {}};
  for (size_t c = 0; c < pairs.size(); ++c) {
    out.by_class.push_back(estimate(seen.by_class[c], std::move(by_class[c])));
  }
  return out;
}

SeedSpread SpreadOf(const std::vector<NamedRecord>& side, Estimate EvaluationFigures::*figure) {
  const auto records = static_cast<double>(side.size());
  double sum = 0, squares = 0;
  for (const NamedRecord& one : side) sum += (one.record->figures.*figure).value;
  for (const NamedRecord& one : side) {
    const double away = (one.record->figures.*figure).value - sum / records;
    squares += away * away;
  }
  return {sum / records,
          side.size() > 1 ? std::sqrt(squares / (records - 1)) : std::numeric_limits<double>::quiet_NaN()};
}

SideSpread SpreadOf(const std::vector<NamedRecord>& side) {
  return {static_cast<int32_t>(side.size()), SpreadOf(side, &EvaluationFigures::clean_accuracy),
          SpreadOf(side, &EvaluationFigures::robust_accuracy),
          SpreadOf(side, &EvaluationFigures::worst_class_robust_accuracy)};
}

// As they were asked for.
std::string AskedFor(const std::vector<RecordedAttack>& attacks) {
  std::string text;
  for (const RecordedAttack& attack : attacks) absl::StrAppend(&text, text.empty() ? "" : "; ", AttackText(attack));
  return text;
}

absl::Status CheckComparable(const NamedRecord& first, const NamedRecord& other) {
  const EvaluationRecord &a = *first.record, &b = *other.record;
  const auto differ = [&](const char* field, const std::string& in_a, const std::string& in_b) {
    return absl::InvalidArgumentError(
        absl::StrCat(first.name, " and ", other.name, " differ in ", field, " (", Shown(in_a), " and ", Shown(in_b),
                     "): only records of the same images, threat and attacks can be compared"));
  };
  const auto rows = [](const EvaluatedData& data) {
    return absl::StrCat(data.row_ids.size(), " from ", data.row_ids.front(), " to ", data.row_ids.back());
  };
  if (a.data.name != b.data.name) return differ("data.name", a.data.name, b.data.name);
  if (a.data.split != b.data.split) return differ("data.split", a.data.split, b.data.split);
  if (a.data.digest != b.data.digest) return differ("data.digest", a.data.digest, b.data.digest);
  if (a.data.image_size != b.data.image_size) {
    return differ("data.image_size", absl::StrCat(a.data.image_size), absl::StrCat(b.data.image_size));
  }
  if (a.data.row_ids != b.data.row_ids) return differ("data.rows", rows(a.data), rows(b.data));
  if (a.threat.norm != b.threat.norm) return differ("threat.norm", a.threat.norm, b.threat.norm);
  if (a.threat.epsilon != b.threat.epsilon) {
    return differ("threat.epsilon", ShortestDigits(a.threat.epsilon), ShortestDigits(b.threat.epsilon));
  }
  if (AskedFor(a.attacks) != AskedFor(b.attacks)) {
    return differ("attacks", AskedFor(a.attacks), AskedFor(b.attacks));
  }
  // The same digest is the same labels, unless somebody made one of them up.
  if (a.data.class_names == b.data.class_names && a.samples.labels == b.samples.labels) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(first.name, " and ", other.name,
                                                 " have one data.digest, but other labels or class names: one of them "
                                                 "is not of the data it names"));
}

absl::Status CheckSide(const NamedRecord& first, const std::vector<NamedRecord>& side) {
  for (size_t i = 0; i < side.size(); ++i) {
    if (absl::Status status = CheckComparable(first, side[i]); !status.ok()) return status;
    for (size_t j = 0; j < i; ++j) {
      if (side[i].record->model.weights_digest != side[j].record->model.weights_digest) continue;
      return absl::InvalidArgumentError(absl::StrCat(side[j].name, " and ", side[i].name,
                                                     " are of one model: a spread over seeds needs a record of each"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<int32_t>> ClassNamed(const std::string& name, const NamedRecord& record) {
  if (name.empty()) return std::nullopt;
  const std::vector<std::string>& names = record.record->data.class_names;
  const auto found = std::find(names.begin(), names.end(), name);
  if (found != names.end()) return static_cast<int32_t>(found - names.begin());
  return absl::InvalidArgumentError(absl::StrCat("the validation class \"", Shown(name), "\" is no class of ",
                                                 record.name, "; the first is \"", Shown(names.front()), "\""));
}

void AdjustPValues(std::vector<ClassComparison>* classes) {
  std::vector<double> p_values;
  for (const ClassComparison& one : *classes) {
    if (one.rows > 0) p_values.push_back(one.p_value);
  }
  const std::vector<double> adjusted = HolmAdjusted(p_values);
  auto next = adjusted.begin();
  for (ClassComparison& one : *classes) one.adjusted_p_value = one.rows > 0 ? *next++ : one.p_value;
}

}  // namespace

double McNemarPValue(int64_t only_a, int64_t only_b) {
  const int64_t n = only_a + only_b, less = std::min(only_a, only_b);
  if (only_a == only_b) return 1;  // twice the tail is more
  // In logarithms, as 2^-n is no double for large n; log of n over k grows from one k to the next.
  double log_term = -static_cast<double>(n) * std::log(2.0), tail = 0;
  for (int64_t k = 0; k <= less; ++k) {
    tail += std::exp(log_term);
    log_term += std::log(static_cast<double>(n - k) / static_cast<double>(k + 1));
  }
  return std::min(1.0, 2 * tail);
}

std::vector<double> HolmAdjusted(const std::vector<double>& p_values) {
  std::vector<size_t> order(p_values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p_values[a] < p_values[b]; });
  std::vector<double> adjusted(p_values.size());
  double largest = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    largest = std::max(largest, std::min(1.0, static_cast<double>(order.size() - i) * p_values[order[i]]));
    adjusted[order[i]] = largest;
  }
  return adjusted;
}

absl::StatusOr<RecordComparison> CompareRecords(const std::vector<NamedRecord>& a, const std::vector<NamedRecord>& b,
                                                const ComparisonOptions& options) {
  for (const auto* side : {&a, &b}) {
    if (absl::Status status = CheckSide(a.front(), *side); !status.ok()) return status;
  }
  const absl::StatusOr<std::optional<int32_t>> validation_class = ClassNamed(options.validation_class, a.front());
  if (!validation_class.ok()) return validation_class.status();
  const EvaluationRecord &first = *a.front().record, &second = *b.front().record;
  const Pairs pairs = CountPairs(first.samples, second.samples, first.classes());
  const DifferenceEstimates robust = EstimatesOf(pairs.robust, options);
  RecordComparison out;
  out.clean_difference = EstimatesOf(pairs.clean, options).average;
  out.robust_difference = robust.average;
  out.worst_class_difference = robust.worst_class;
  for (size_t c = 0; c < pairs.robust.size(); ++c) {
    const PairCounts& counts = pairs.robust[c];
    const int64_t rows = RowsOf(counts);
    out.classes.push_back(
        {first.data.class_names[c], static_cast<int32_t>(rows), robust.by_class[c],
         static_cast<int32_t>(counts[kOnlyA]), static_cast<int32_t>(counts[kOnlyB]),
         rows > 0 ? McNemarPValue(counts[kOnlyA], counts[kOnlyB]) : std::numeric_limits<double>::quiet_NaN(), 0});
  }
  AdjustPValues(&out.classes);
  out.validation_class = *validation_class;
  out.rho = Rho(second.figures, first.figures);
  out.a = SpreadOf(a);
  out.b = SpreadOf(b);
  return out;
}

}  // namespace ham
