#include "client/robustbench.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "client/output.h"
#include "proto/known_attacks.h"

namespace ham::client {
namespace {

bool IsAutoAttack(const EvaluationRecord& record) {
  const int32_t targets = std::min(kDefaultTargets, record.classes() - 1);  // of fewer classes all others
  struct Asked {
    const char* name;
    const char* loss;
    int32_t steps;
    int32_t targets;
  };
  const std::array<Asked, 4> standard = {{{"apgd", "cross_entropy", 100, 0},
                                          {"apgd-t", "", 100, targets},
                                          {"fab-t", "", 100, targets},
                                          {"square", "", 5000, 0}}};
  const auto same = [](const RecordedAttack& attack, const Asked& asked) {
    return attack.name == asked.name && attack.loss == asked.loss && attack.steps == asked.steps &&
           attack.targets == asked.targets && attack.restarts == 1;
  };
  return std::equal(record.attacks.begin(), record.attacks.end(), standard.begin(), standard.end(), same);
}

// "8/255" where it is such a fraction.
std::string Epsilon(double epsilon) {
  const double steps = epsilon * 255;
  const bool whole = std::abs(steps - std::round(steps)) < 1e-6 && steps > 0.5;
  return whole && epsilon < 1 ? absl::StrFormat("%.0f/255", steps) : ShortestDigits(epsilon);
}

std::string DataName(const std::string& name) {
  return absl::StartsWith(name, "cifar-") ? absl::StrReplaceAll(name, {{"-", ""}}) : name;
}

std::string PerCent(const Estimate& accuracy) { return absl::StrFormat("%.2f", 100 * accuracy.value); }

}  // namespace

absl::StatusOr<std::string> RobustBenchJson(const EvaluationRecord& record, const EvalExportOptions& facts) {
  if (record.data.split != "test" || !IsAutoAttack(record)) {
    return absl::FailedPreconditionError(
        absl::StrCat("RobustBench lists accuracies on test images under AutoAttack standard (apgd cross_entropy, 100; "
                     "apgd-t, 100 x 9 targets; fab-t, 100 x 9 targets; square, 5000), but this record is of split ",
                     record.data.split, " under other attacks or settings: evaluate with those"));
  }
  const std::vector<uint32_t>& rows = record.data.row_ids;
  if (rows.front() != 0 || rows.back() + 1 != rows.size()) {
    return absl::FailedPreconditionError(
        "the record is of a part of the test images, such as a shard: evaluate the first ones without a gap");
  }
  const std::string robust = PerCent(record.figures.robust_accuracy);
  const nlohmann::ordered_json json = {
      {"link", facts.link},
      {"name", facts.name},
      {"authors", facts.authors},
      {"additional_data", facts.additional_data},
      {"number_forward_passes", 1},
      {"dataset", DataName(record.data.name)},
      {"venue", facts.venue},
      {"architecture", facts.architecture.empty() ? record.model.name : facts.architecture},
      {"eps", Epsilon(record.threat.epsilon)},
      {"clean_acc", PerCent(record.figures.clean_accuracy)},
      {"reported", robust},
      {"autoattack_acc", robust},
      {"unreliable", !record.trusted}};
  return EscapedForTerminal(json.dump(2)) + "\n";
}

}  // namespace ham::client
