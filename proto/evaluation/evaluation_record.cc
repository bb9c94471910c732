#include "proto/evaluation/evaluation_record.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/evaluation/record_json.h"
#include "proto/known_attacks.h"
#include "proto/sha256.h"
#include "proto/utf8.h"

namespace ham {
namespace {

using nlohmann::json;

constexpr size_t kMostAttacks = 64;
constexpr size_t kMostWarnings = 64;
constexpr size_t kMostChannels = 64;
constexpr size_t kMostTextBytes = 1000;
constexpr double kFigureTolerance = 1e-9;

absl::Status Wrong(const std::string& field, const std::string& what) {
  return absl::DataLossError(absl::StrCat(field, " ", what));
}

absl::Status CheckText(const std::string& field, const std::string& text, bool may_be_empty = false) {
  if (text.empty() && !may_be_empty) return Wrong(field, "is empty");
  if (text.size() > kMostTextBytes) {
    return Wrong(field, absl::StrCat("has ", text.size(), " bytes; at most ", kMostTextBytes, " are allowed"));
  }
  return IsUtf8(text) ? absl::OkStatus() : Wrong(field, "is not UTF-8");
}

absl::Status CheckOneOf(const std::string& field, const std::string& text,
                        const std::vector<std::string_view>& allowed) {
  if (std::find(allowed.begin(), allowed.end(), text) != allowed.end()) return absl::OkStatus();
  return Wrong(field, absl::StrCat("is \"", Shown(text), "\"; allowed is ",
                                   absl::StrJoin(allowed, ", ", [](std::string* out, std::string_view one) {
                                     absl::StrAppend(out, "\"", std::string(one), "\"");
                                   })));
}

// Open below, closed above; NaN is in no range.
absl::Status CheckAbove0(const std::string& field, double value, double most) {
  if (value > 0 && value <= most) return absl::OkStatus();
  return Wrong(field, absl::StrCat("is ", value, "; allowed is above 0, up to ", most));
}

absl::Status CheckCount(const std::string& field, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return Wrong(field, absl::StrCat("is ", value, "; allowed is ", least, " to ", most));
}

absl::Status CheckSize(const std::string& field, size_t size, size_t least, size_t most) {
  if (size >= least && size <= most) return absl::OkStatus();
  return Wrong(field, absl::StrCat("has ", size, " entries; allowed is ", least, " to ", most));
}

absl::Status CheckDigest(const std::string& field, const std::string& text) {
  return IsSha256Hex(text) ? absl::OkStatus() : Wrong(field, "is no SHA-256 in lower-case hex");
}

// The first error; later checks may rely on earlier ones, so they are made one after the other.
class Checks {
 public:
  template <class Check>
  Checks& Then(const Check& check) {
    if (status_.ok()) status_ = check();
    return *this;
  }
  const absl::Status& status() const { return status_; }

 private:
  absl::Status status_;
};

absl::Status CheckNormalization(const EvaluatedModel& model) {
  const std::vector<double>&mean = model.normalization_mean, &deviation = model.normalization_standard_deviation;
  const std::string field = "model.normalization_standard_deviation";
  if (mean.size() != deviation.size()) {
    return Wrong(field,
                 absl::StrCat("has ", deviation.size(), " entries for ", mean.size(), " means; as many are needed"));
  }
  for (const double value : mean) {
    if (!std::isfinite(value)) return Wrong("model.normalization_mean", absl::StrCat("holds ", value));
  }
  for (const double value : deviation) {
    if (absl::Status status = CheckAbove0(field, value, std::numeric_limits<double>::max()); !status.ok())
      return status;
  }
  return CheckSize(field, deviation.size(), 0, kMostChannels);
}

absl::Status CheckModel(const EvaluatedModel& model) {
  return Checks()
      .Then([&] { return CheckText("model.name", model.name); })
      .Then([&] { return CheckDigest("model.weights_digest", model.weights_digest); })
      .Then([&] {
        return CheckOneOf("model.activation", model.activation, {"relu", "silu"});
      })
      .Then([&] { return CheckNormalization(model); })
      .Then([&] { return CheckText("model.source", model.source, /*may_be_empty=*/true); })
      .status();
}

absl::Status CheckClassNames(const std::vector<std::string>& names) {
  std::set<std::string> seen;
  for (const std::string& name : names) {
    if (absl::Status status = CheckText("data.class_names", name); !status.ok()) return status;
    if (!seen.insert(name).second) return Wrong("data.class_names", absl::StrCat("has \"", Shown(name), "\" twice"));
  }
  return CheckSize("data.class_names", names.size(), 2, kMostRecordClasses);
}

absl::Status CheckData(const EvaluatedData& data) {
  return Checks()
      .Then([&] { return CheckText("data.name", data.name); })
      .Then([&] {
        return CheckOneOf("data.split", data.split, {"test", "validation", "train"});
      })
      .Then([&] { return CheckDigest("data.digest", data.digest); })
      .Then([&] { return CheckCount("data.image_size", data.image_size, 0, 1 << 20); })
      .Then([&] { return CheckClassNames(data.class_names); })
      .Then([&] { return CheckSize("data.rows", data.row_ids.size(), 1, kMostRecordRows); })
      .Then([&] {
        const auto& ids = data.row_ids;
        const auto same_or_less = [](uint32_t a, uint32_t b) { return b <= a; };
        const bool ascend = std::adjacent_find(ids.begin(), ids.end(), same_or_less) == ids.end();
        return ascend ? absl::OkStatus() : Wrong("data.row_ids", "do not ascend");
      })
      .status();
}

absl::Status CheckThreat(const EvaluationThreat& threat) {
  return Checks()
      .Then([&] {
        return CheckOneOf("threat.norm", threat.norm, {"linf", "l2"});
      })
      .Then([&] { return CheckAbove0("threat.epsilon", threat.epsilon, threat.norm == "l2" ? 100 : 1); })
      .status();
}

std::vector<std::string_view> KnownAttackNames() {
  std::vector<std::string_view> names;
  for (const KnownAttack& known : KnownAttacks()) names.push_back(known.name);
  return names;
}

absl::Status CheckAttack(const std::string& path, const RecordedAttack& attack) {
  if (absl::Status status = CheckOneOf(path + "name", attack.name, KnownAttackNames()); !status.ok()) return status;
  const KnownAttack& known = *FindAttack(attack.name);
  const bool pgd = known.takes_steps_of_a_size();
  const auto none = std::vector<std::string_view>{""};
  // Of one loss alone there is nothing to record.
  const auto losses =
      known.losses.size() > 1 ? std::vector<std::string_view>(known.losses.begin(), known.losses.end()) : none;
  return Checks()
      .Then([&] { return CheckOneOf(path + "loss", attack.loss, losses); })
      .Then([&] { return CheckCount(path + "steps", attack.steps, 1, 1'000'000); })
      .Then([&] {
        if (pgd) return CheckAbove0(path + "step_size", attack.step_size, 100);
        return attack.step_size == 0 ? absl::OkStatus() : Wrong(path + "step_size", "is of pgd only, else 0");
      })
      .Then([&] { return CheckCount(path + "restarts", attack.restarts, 1, 1000); })
      .Then([&] { return CheckCount(path + "targets", attack.targets, known.targeted, known.targeted ? 1000 : 0); })
      .Then([&] {
        return pgd || !attack.random_start ? absl::OkStatus()
                                           : Wrong(path + "random_start", "is of pgd only, else false");
      })
      .Then([&] {
        return CheckOneOf(path + "judged_at", attack.judged_at,
                          pgd ? std::vector<std::string_view>{"last", "any"} : none);
      })
      .Then([&] {
        return attack.seconds >= 0 && std::isfinite(attack.seconds)
                   ? absl::OkStatus()
                   : Wrong(path + "seconds", absl::StrCat("is ", attack.seconds, "; allowed is 0 or more"));
      })
      .status();
}

absl::Status CheckAttacks(const std::vector<RecordedAttack>& attacks) {
  for (size_t i = 0; i < attacks.size(); ++i) {
    if (absl::Status status = CheckAttack(absl::StrCat("attacks[", i, "]."), attacks[i]); !status.ok()) return status;
  }
  return CheckSize("attacks", attacks.size(), 1, kMostAttacks);
}

absl::Status CheckSetting(const EvaluationRecord& record) {
  return Checks()
      .Then([&] {
        return CheckOneOf("precision", record.precision, {"fp32", "tf32", "fp64", "bf16"});
      })
      .Then([&] { return CheckText("device", record.device); })
      .Then([&] { return CheckText("code_version", record.code_version); })
      .Then([&] { return CheckText("build_id", record.build_id); })
      .status();
}

absl::Status CheckWarnings(const std::vector<EvaluationWarning>& warnings) {
  for (size_t i = 0; i < warnings.size(); ++i) {
    const absl::Status status = CheckText(absl::StrCat("warnings[", i, "].message"), warnings[i].message);
    if (!status.ok()) return status;
  }
  return CheckSize("warnings", warnings.size(), 0, kMostWarnings);
}

absl::Status CheckOptions(const FigureOptions& options) {
  return Checks()
      .Then([&] { return CheckCount("figures.worst_k", options.worst_k, 1, kMostRecordClasses); })
      .Then([&] { return CheckCount("figures.resamples", options.resamples, 100, 10'000); })
      .status();
}

// All that figures are computed from.
absl::Status CheckInputs(const EvaluationRecord& record, const FigureOptions& options) {
  return Checks()
      .Then([&] { return CheckModel(record.model); })
      .Then([&] { return CheckData(record.data); })
      .Then([&] { return CheckThreat(record.threat); })
      .Then([&] { return CheckAttacks(record.attacks); })
      .Then([&] { return CheckSetting(record); })
      .Then([&] { return CheckWarnings(record.warnings); })
      .Then([&] {
        const size_t rows = record.data.row_ids.size();
        if (record.samples.rows() == rows) return absl::OkStatus();
        return Wrong("samples", absl::StrCat("has ", record.samples.rows(), " rows; data has ", rows));
      })
      .Then(
          [&] { return CheckOutcomes(record.samples, record.classes(), static_cast<int32_t>(record.attacks.size())); })
      .Then([&] { return CheckOptions(options); })
      .status();
}

EvaluationFigures FiguresOf(const EvaluationRecord& record, const FigureOptions& options) {
  return ComputeFigures(record.samples, record.classes(), static_cast<int32_t>(record.attacks.size()), options);
}

void CountRows(const EvaluationOutcomes& samples, std::vector<RecordedAttack>* attacks) {
  int32_t robust = 0;
  for (size_t i = 0; i < samples.rows(); ++i) robust += samples.CleanRight(i);
  for (size_t a = 0; a < attacks->size(); ++a) {
    const auto broken = std::count(samples.broken_by.begin(), samples.broken_by.end(), static_cast<int32_t>(a));
    (*attacks)[a].rows_tried = robust;
    (*attacks)[a].rows_broken = static_cast<int32_t>(broken);
    robust -= static_cast<int32_t>(broken);
  }
}

bool IsTrusted(const std::vector<EvaluationWarning>& warnings) {
  return std::all_of(warnings.begin(), warnings.end(),
                     [](const EvaluationWarning& warning) { return warning.type == WarningType::kFewerTargets; });
}

// The first place where two JSON values of figures differ by more than rounding; "" where none does.
std::string FirstDifference(const json& stated, const json& computed, const std::string& path) {
  if (stated.is_number() && computed.is_number()) {
    const double a = stated.get<double>(), b = computed.get<double>();
    if (std::abs(a - b) <= kFigureTolerance) return "";
  } else if (stated.is_array() && computed.is_array() && stated.size() == computed.size()) {
    for (size_t i = 0; i < stated.size(); ++i) {
      std::string found = FirstDifference(stated[i], computed[i], absl::StrCat(path, "[", i, "]"));
      if (!found.empty()) return found;
    }
    return "";
  } else if (stated.is_object() && computed.is_object()) {
    for (const auto& [key, value] : stated.items()) {
      std::string found = FirstDifference(value, computed.at(key), absl::StrCat(path, ".", key));
      if (!found.empty()) return found;
    }
    return "";
  } else if (stated == computed) {
    return "";
  }
  if (stated.is_array()) {
    return absl::StrCat(path, " has ", stated.size(), " entries, but the samples give ", computed.size());
  }
  return absl::StrCat(path, " is ", stated.dump(), ", but the samples give ", computed.dump());
}

absl::Status CheckFigures(const EvaluationRecord& record) {
  std::vector<RecordedAttack> counted = record.attacks;
  CountRows(record.samples, &counted);
  for (size_t a = 0; a < counted.size(); ++a) {
    const RecordedAttack& stated = record.attacks[a];
    if (stated.rows_tried == counted[a].rows_tried && stated.rows_broken == counted[a].rows_broken) continue;
    return Wrong(absl::StrCat("attacks[", a, "]"),
                 absl::StrCat("has rows_tried ", stated.rows_tried, " and rows_broken ", stated.rows_broken,
                              ", but the samples give ", counted[a].rows_tried, " and ", counted[a].rows_broken));
  }
  const json computed = FiguresJson(FiguresOf(record, record.figures.options));
  const std::string difference = FirstDifference(FiguresJson(record.figures), computed, "figures");
  return difference.empty() ? absl::OkStatus() : absl::DataLossError(difference);
}

}  // namespace

std::string ShortestDigits(double value) { return json(value).dump(); }

std::string AttackText(const RecordedAttack& attack) {
  std::string text = absl::StrCat(attack.name, attack.loss.empty() ? "" : " ", attack.loss, ", ", attack.steps);
  if (attack.step_size > 0) absl::StrAppend(&text, " x ", ShortestDigits(attack.step_size));
  if (attack.targets > 0) absl::StrAppend(&text, " x ", attack.targets, " targets");
  if (attack.restarts > 1) absl::StrAppend(&text, ", ", attack.restarts, " restarts");
  if (attack.name == "pgd") {
    absl::StrAppend(&text, attack.random_start ? "" : ", from the image", ", judged at ", attack.judged_at);
  }
  return text;
}

absl::Status CheckRecordInputs(const EvaluationRecord& record) { return CheckInputs(record, {}); }

absl::StatusOr<EvaluationRecord> MakeRecord(EvaluationRecord record, const FigureOptions& options) {
  if (absl::Status status = CheckInputs(record, options); !status.ok()) return status;
  CountRows(record.samples, &record.attacks);
  record.figures = FiguresOf(record, options);
  record.trusted = IsTrusted(record.warnings);
  return record;
}

absl::Status CheckRecord(const EvaluationRecord& record) {
  return Checks()
      .Then([&] { return CheckInputs(record, record.figures.options); })
      .Then([&] { return CheckFigures(record); })
      .Then([&] {
        const bool trusted = IsTrusted(record.warnings);
        if (record.trusted == trusted) return absl::OkStatus();
        return Wrong("trusted", absl::StrCat("is ", record.trusted ? "true" : "false", ", but the warnings say ",
                                             trusted ? "true" : "false"));
      })
      .status();
}

std::string RecordText(const EvaluationRecord& record) { return RecordJson(record).dump(); }

}  // namespace ham
