#include "worker/trainer/evaluation/attack_text.h"

#include <cmath>

#include <nlohmann/json.hpp>
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "proto/known_attacks.h"

namespace ham::trainer {
namespace {

using nlohmann::json;

constexpr size_t kMostAttacks = 16;  // as of a suite

json DefaultsOf(const KnownAttack& known, const Ball& ball) {
  const bool sized = known.takes_steps_of_a_size();
  return {{"name", known.name},
          {"loss", known.losses[0]},
          {"steps", known.steps},
          {"step_size", sized ? ball.radius / 10 : 0},
          {"restarts", 1},
          {"random_start", known.random_start},
          {"judged_at", sized ? "last" : "any"},
          {"targets", known.targeted ? kDefaultTargets : 0}};
}

// Of the type that the option has; a text that is none stays one, for the reader to refuse.
absl::Status Set(const std::string& option, json* attack) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(option, absl::MaxSplits('=', 1));
  const auto found = attack->find(parts.first);
  if (found == attack->end() || parts.first == "name") {
    std::vector<std::string> keys;
    for (const auto& [key, unused] : attack->items()) {
      if (key != "name") keys.push_back(key);
    }
    return absl::InvalidArgumentError(
        absl::StrFormat("--attacks has the option \"%s\"; allowed are %s", option, absl::StrJoin(keys, ", ")));
  }
  const json value = json::parse(parts.second, nullptr, /*allow_exceptions=*/false);
  *found = value.is_discarded() ? json(parts.second) : value;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<double> ParseDistance(const std::string& flag, const std::string& text, Norm norm) {
  const std::vector<std::string> parts = absl::StrSplit(text, absl::MaxSplits('/', 1));
  double value = 0, divisor = 1;
  const bool numbers =
      absl::SimpleAtod(parts[0], &value) && (parts.size() == 1 || absl::SimpleAtod(parts[1], &divisor));
  const double highest = norm == Norm::kL2 ? 100 : 1;
  value /= divisor;
  if (numbers && std::isfinite(value) && value > 0 && value <= highest) return value;
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s is \"%s\"; allowed is a number or a quotient such as 8/255, above 0 and up to %g", flag, text, highest));
}

absl::StatusOr<std::vector<EvaluationAttack>> ParseAttacks(const std::string& text, const Ball& ball) {
  std::vector<EvaluationAttack> out;
  std::vector<std::string> parts;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    if (part == "standard") {
      parts.insert(parts.end(), {"apgd", "apgd-t", "fab-t", "square"});
    } else {
      parts.emplace_back(part);
    }
  }
  if (parts.size() > kMostAttacks) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--attacks names %d attacks; allowed are up to %d", parts.size(), kMostAttacks));
  }
  for (const std::string& part : parts) {
    const std::vector<std::string> words = absl::StrSplit(part, ':');
    const KnownAttack* const known = FindAttack(words[0]);
    if (known == nullptr) {
      const auto name = [](std::string* to, const KnownAttack& attack) { to->append(attack.name); };
      return absl::InvalidArgumentError(absl::StrFormat("--attacks has \"%s\"; allowed are standard, %s", words[0],
                                                        absl::StrJoin(KnownAttacks(), ", ", name)));
    }
    json attack = DefaultsOf(*known, ball);
    for (size_t i = 1; i < words.size(); ++i) {
      if (absl::Status status = Set(words[i], &attack); !status.ok()) return status;
    }
    const auto parsed = ParseEvaluationAttack(attack, absl::StrFormat("--attacks %s", words[0]), ball.norm);
    if (!parsed.ok()) return parsed.status();
    out.push_back(*parsed);
  }
  return out;
}

}  // namespace ham::trainer
