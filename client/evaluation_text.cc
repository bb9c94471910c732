#include "client/evaluation_text.h"

#include <cmath>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/output.h"
#include "client/text.h"
#include "proto/evaluation/record_json.h"

namespace ham::client {
namespace {

using Object = nlohmann::json;
using Rows = std::vector<std::vector<std::string>>;

constexpr char kNoValue[] = "-";

std::string Points(double fraction) {
  return std::isfinite(fraction) ? absl::StrFormat("%+.2f", 100 * fraction) : kNoValue;
}

std::string Digits(double value, const char* digits = "%.4g") {
  return std::isfinite(value) ? absl::StrFormat(absl::ParsedFormat<'g'>(digits), value) : kNoValue;
}

std::string Range(const std::string& low, const std::string& high) {
  return low == kNoValue ? kNoValue : absl::StrCat(low, " to ", high);
}
std::string PercentRange(const Estimate& estimate) { return Range(Percent(estimate.low), Percent(estimate.high)); }
std::string PointsRange(const Estimate& estimate) { return Range(Points(estimate.low), Points(estimate.high)); }

std::string RowsText(const EvaluatedData& data) {
  return absl::StrCat(data.row_ids.size(), " images, rows ", data.row_ids.front(), " to ", data.row_ids.back());
}

std::string Head(const RecordFile& file) {
  const EvaluationRecord& record = file.record;
  Rows rows = {{"model", absl::StrCat(record.model.name, ", weights ", record.model.weights_digest)},
               {"data", absl::StrCat(record.data.name, " ", record.data.split, ", ", RowsText(record.data))},
               {"threat", absl::StrCat(record.threat.norm, ", epsilon ", ShortestDigits(record.threat.epsilon))},
               {"run", absl::StrCat(record.precision, " on ", record.device, ", seed ", record.seed, ", ham ",
                                    record.code_version, " build ", record.build_id)},
               {"signed by", file.signed_by.empty() ? "nobody: unsigned" : file.signed_by},
               {"trusted", record.trusted ? "yes" : "NO: see the warnings"}};
  if (!record.model.source.empty()) rows.insert(rows.begin() + 1, {"source", record.model.source});
  return Table(rows);
}

std::string FiguresTable(const EvaluationRecord& record) {
  const EvaluationFigures& figures = record.figures;
  const std::string& worst = record.data.class_names[static_cast<size_t>(figures.worst_class)];
  Rows rows = {{"FIGURE", "VALUE", "95 % INTERVAL"}};
  const auto add = [&rows](const std::string& name, const Estimate& estimate) {
    rows.push_back({name, Percent(estimate.value), PercentRange(estimate)});
  };
  add("clean accuracy", figures.clean_accuracy);
  add("robust accuracy", figures.robust_accuracy);
  add("boundary error", figures.boundary_error);
  add(absl::StrCat("worst class, ", worst), figures.worst_class_robust_accuracy);
  add(absl::StrCat("worst ", figures.options.worst_k, " classes"), figures.worst_k_robust_accuracy);
  add("worst 30 % of classes", figures.worst_30_percent_robust_accuracy);
  add("best - worst class", figures.best_worst_gap);
  add("standard deviation of classes", figures.standard_deviation);
  const Estimate& normalized = figures.normalized_standard_deviation;
  rows.push_back(
      {"the same / mean of classes", Digits(normalized.value), Range(Digits(normalized.low), Digits(normalized.high))});
  return Table(rows);
}

// The class that rows of `label` are most often taken for, with their share.
std::string MostTakenFor(const EvaluationRecord& record, size_t label) {
  const size_t classes = record.data.class_names.size();
  const auto* counts = record.figures.confusion.data() + label * classes;
  size_t most = label == 0 ? 1 : 0;
  for (size_t c = most + 1; c < classes; ++c) {
    if (c != label && counts[c] > counts[most]) most = c;
  }
  if (counts[most] == 0) return kNoValue;
  return absl::StrCat(record.data.class_names[most], " ",
                      Percent(Share(counts[most], record.figures.classes[label].rows)));
}

std::string ClassesTable(const EvaluationRecord& record) {
  Rows rows = {{"CLASS", "IMAGES", "CLEAN", "ROBUST", "95 % INTERVAL", "BOUNDARY ERROR", "MOST TAKEN FOR"}};
  for (size_t c = 0; c < record.figures.classes.size(); ++c) {
    const ClassFigures& figures = record.figures.classes[c];
    rows.push_back({record.data.class_names[c], absl::StrCat(figures.rows), Percent(figures.clean_accuracy.value),
                    Percent(figures.robust_accuracy.value), PercentRange(figures.robust_accuracy),
                    Percent(figures.boundary_error.value), MostTakenFor(record, c)});
  }
  return Table(rows);
}

std::string AttacksTable(const EvaluationRecord& record) {
  Rows rows = {{"ATTACK", "TRIED", "BROKEN", "ROBUST AFTER", "WORST CLASS AFTER", "SECONDS"}};
  for (size_t a = 0; a < record.attacks.size(); ++a) {
    const RecordedAttack& attack = record.attacks[a];
    const AttackEffect& effect = record.figures.attacks[a];
    rows.push_back({AttackText(attack), absl::StrCat(attack.rows_tried), absl::StrCat(attack.rows_broken),
                    Percent(effect.robust_accuracy), Percent(effect.worst_class_robust_accuracy),
                    absl::StrFormat("%.1f", attack.seconds)});
  }
  return Table(rows);
}

std::string WarningsTable(const std::vector<EvaluationWarning>& warnings) {
  Rows rows = {{"WARNING", ""}};
  for (const EvaluationWarning& warning : warnings) rows.push_back({WarningTypeName(warning.type), warning.message});
  return Table(rows);
}

std::string SideTable(const std::vector<NamedRecord>& a, const std::vector<NamedRecord>& b,
                      const RecordComparison& comparison) {
  const EvaluationRecord &first = *a.front().record, &second = *b.front().record;
  Rows rows = {{"", "A", "B", "B - A, POINTS", "95 % INTERVAL"}};
  const auto add = [&](const std::string& name, Estimate EvaluationFigures::*figure, const Estimate& difference) {
    rows.push_back({name, Percent((first.figures.*figure).value), Percent((second.figures.*figure).value),
                    Points(difference.value), PointsRange(difference)});
  };
  add("robust accuracy", &EvaluationFigures::robust_accuracy, comparison.robust_difference);
  add("worst class", &EvaluationFigures::worst_class_robust_accuracy, comparison.worst_class_difference);
  add("clean accuracy", &EvaluationFigures::clean_accuracy, comparison.clean_difference);
  return Table(rows);
}

std::string ClassDifferencesTable(const RecordComparison& comparison) {
  Rows rows = {{"CLASS", "IMAGES", "ONLY A", "ONLY B", "B - A, POINTS", "95 % INTERVAL", "P", "P, ALL CLASSES"}};
  for (const ClassComparison& one : comparison.classes) {
    rows.push_back({one.name, absl::StrCat(one.rows), absl::StrCat(one.only_a), absl::StrCat(one.only_b),
                    Points(one.robust_difference.value), PointsRange(one.robust_difference),
                    Digits(one.p_value, "%.3g"), Digits(one.adjusted_p_value, "%.3g")});
  }
  return Table(rows);
}

std::string SpreadTable(const RecordComparison& comparison) {
  Rows rows = {{"OVER TRAININGS", "RECORDS", "ROBUST", "WORST CLASS", "CLEAN"}};
  const auto text = [](const SeedSpread& spread) {
    const std::string mean = absl::StrFormat("%.2f", 100 * spread.mean);
    return std::isfinite(spread.standard_deviation)
               ? absl::StrCat(mean, " +- ", absl::StrFormat("%.2f", 100 * spread.standard_deviation))
               : mean;
  };
  for (const auto& [name, side] : {std::pair{"A", comparison.a}, std::pair{"B", comparison.b}}) {
    rows.push_back({name, absl::StrCat(side.records), text(side.robust_accuracy),
                    text(side.worst_class_robust_accuracy), text(side.clean_accuracy)});
  }
  return Table(rows);
}

Object SpreadJson(const SeedSpread& spread) {
  return {{"mean", NumberJson(spread.mean)}, {"standard_deviation", NumberJson(spread.standard_deviation)}};
}

Object SideJson(const SideSpread& side) {
  return {{"records", side.records},
          {"clean_accuracy", SpreadJson(side.clean_accuracy)},
          {"robust_accuracy", SpreadJson(side.robust_accuracy)},
          {"worst_class_robust_accuracy", SpreadJson(side.worst_class_robust_accuracy)}};
}

Object ClassJson(const ClassComparison& one) {
  return {{"name", one.name},
          {"rows", one.rows},
          {"robust_difference", EstimateJson(one.robust_difference)},
          {"only_a", one.only_a},
          {"only_b", one.only_b},
          {"p_value", NumberJson(one.p_value)},
          {"adjusted_p_value", NumberJson(one.adjusted_p_value)}};
}

std::string Indented(const Object& object) { return EscapedForTerminal(object.dump(2)) + "\n"; }

}  // namespace

std::string EvaluationTables(const RecordFile& file) {
  const EvaluationRecord& record = file.record;
  std::string text =
      absl::StrCat(Head(file), "\n", FiguresTable(record), "\n", ClassesTable(record), "\n", AttacksTable(record));
  if (!record.warnings.empty()) absl::StrAppend(&text, "\n", WarningsTable(record.warnings));
  return text;
}

std::string EvaluationJson(const RecordFile& file) {
  Object object = RecordJson(file.record);
  object.erase("samples");
  object["signed_by"] = file.signed_by;
  return Indented(object);
}

std::string ComparisonTables(const std::vector<NamedRecord>& a, const std::vector<NamedRecord>& b,
                             const RecordComparison& comparison) {
  std::string text;
  for (const auto& [name, side] : {std::pair{"A", &a}, std::pair{"B", &b}}) {
    for (const NamedRecord& one : *side) {
      absl::StrAppend(&text, name, ": ", Printable(one.name), ", ", Printable(one.record->model.name),
                      one.record->trusted ? "" : ", NOT TRUSTED: see its warnings", "\n");
    }
  }
  absl::StrAppend(&text, "\n", SideTable(a, b, comparison), "\n", ClassDifferencesTable(comparison));
  if (comparison.validation_class.has_value()) {
    const ClassComparison& one = comparison.classes[static_cast<size_t>(*comparison.validation_class)];
    absl::StrAppend(&text, "\n", Printable(one.name), ", chosen beforehand: ", Points(one.robust_difference.value),
                    " points, p = ", Digits(one.p_value, "%.3g"), " without correction\n");
  }
  absl::StrAppend(&text, "\n", SpreadTable(comparison), "\nrho of B against A: ", Digits(comparison.rho),
                  " (to look at, not to rank by: it explodes where A's worst class is near 0)\n");
  return text;
}

std::string ComparisonJson(const RecordComparison& comparison) {
  Object classes = Object::array();
  for (const ClassComparison& one : comparison.classes) classes.push_back(ClassJson(one));
  Object object = {{"clean_difference", EstimateJson(comparison.clean_difference)},
                   {"robust_difference", EstimateJson(comparison.robust_difference)},
                   {"worst_class_difference", EstimateJson(comparison.worst_class_difference)},
                   {"classes", std::move(classes)},
                   {"rho", NumberJson(comparison.rho)},
                   {"a", SideJson(comparison.a)},
                   {"b", SideJson(comparison.b)}};
  if (comparison.validation_class.has_value()) object["validation_class"] = *comparison.validation_class;
  return Indented(object);
}

}  // namespace ham::client
