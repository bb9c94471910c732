#include "proto/evaluation/outcome_warnings.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "proto/known_attacks.h"

namespace ham {
namespace {

constexpr double kBlackBoxShare = 0.002;
constexpr double kWeakShare = 0.04, kWeakWorstShare = 0.08;
constexpr double kRounding = 1e-9;  // of a difference of shares
constexpr int32_t kLeastClassRows = 25;

// Robust rows as attack after attack goes over them.
class RobustCounts {
 public:
  explicit RobustCounts(const EvaluationRecord& record)
      : samples_(record.samples), rows_(record.classes()), robust_(record.classes()) {
    for (size_t i = 0; i < samples_.rows(); ++i) {
      ++rows_[samples_.labels[i]];
      robust_[samples_.labels[i]] += samples_.CleanRight(i);
    }
  }

  // Rows that attack `a` broke.
  int64_t Apply(int32_t a) {
    int64_t broken = 0;
    for (size_t i = 0; i < samples_.rows(); ++i) {
      if (samples_.broken_by[i] != a) continue;
      --robust_[samples_.labels[i]];
      ++broken;
    }
    return broken;
  }

  // The smallest share of robust rows in a class; 1 if all classes are small.
  double Worst() const {
    double worst = 1;
    for (size_t c = 0; c < rows_.size(); ++c) {
      if (rows_[c] >= kLeastClassRows) worst = std::min(worst, Share(robust_[c], rows_[c]));
    }
    return worst;
  }

 private:
  const EvaluationOutcomes& samples_;
  std::vector<int32_t> rows_, robust_;  // by class
};

bool IsPgdOfCrossEntropy(const RecordedAttack& attack) {
  return (attack.name == "pgd" || attack.name == "apgd") && attack.loss == "cross_entropy";
}

std::string Points(double share) { return absl::StrFormat("%.1f points", 100 * share); }

}  // namespace

std::vector<EvaluationWarning> OutcomeWarnings(const EvaluationRecord& record) {
  std::vector<EvaluationWarning> out;
  const auto warn = [&out](WarningType type, std::string message) {
    const auto of_type = [type](const EvaluationWarning& warning) { return warning.type == type; };
    if (std::none_of(out.begin(), out.end(), of_type)) out.push_back({type, std::move(message)});
  };
  RobustCounts counts(record);
  const auto rows = static_cast<int64_t>(record.samples.rows());
  bool behind_another = false, behind_pgd = false;
  for (size_t a = 0; a < record.attacks.size(); ++a) {
    const RecordedAttack& attack = record.attacks[a];
    const double worst_before = counts.Worst();
    const int64_t broken = counts.Apply(static_cast<int32_t>(a));
    const double lowered = Share(broken, rows), worst_lowered = worst_before - counts.Worst();
    if (attack.name == "square" && behind_another && lowered > kBlackBoxShare) {
      warn(WarningType::kBlackBoxStronger,
           absl::StrFormat("square, which sees no gradient, broke %d of %d rows (%s) that the attacks before "
                           "it had left; up to 0.2 points are usual",
                           broken, rows, Points(lowered)));
    }
    if (attack.name == "apgd-t" && behind_pgd &&
        (lowered > kWeakShare || worst_lowered > kWeakWorstShare + kRounding)) {
      warn(WarningType::kWeakPgd,
           absl::StrFormat("apgd-t lowered robust accuracy by %s behind cross entropy (%d of %d rows), and "
                           "that of the worst class by %s; up to 4 and 8 are usual",
                           Points(lowered), broken, rows, Points(worst_lowered)));
    }
    if (attack.targets > 0 && attack.targets < kDefaultTargets) {
      warn(WarningType::kFewerTargets, absl::StrFormat("%s aimed at %d of %d other classes; %d are usual", attack.name,
                                                       attack.targets, record.classes() - 1, kDefaultTargets));
    }
    behind_another |= attack.name != "square";
    behind_pgd |= IsPgdOfCrossEntropy(attack);
  }
  return out;
}

}  // namespace ham
