// The attacks of evaluations, and what each does where it leaves no choice (EvaluationAttack in ham/v1/job.proto).
#pragma once

#include <algorithm>
#include <string>
#include <vector>

namespace ham {

struct KnownAttack {
  std::string name;
  int steps;                        // by default
  std::vector<std::string> losses;  // that it takes; the first one by default
  bool random_start;
  bool targeted;

  bool takes_steps_of_a_size() const { return name == "pgd"; }
};

inline const std::vector<KnownAttack>& KnownAttacks() {
  static const std::vector<KnownAttack> known = {{"pgd", 20, {"cross_entropy", "margin", "dlr"}, true, false},
                                                 {"apgd", 100, {"cross_entropy", "dlr"}, true, false},
                                                 {"apgd-t", 100, {"dlr"}, true, true},
                                                 {"fab-t", 100, {"margin"}, false, true},
                                                 {"square", 5000, {"margin"}, true, false}};
  return known;
}

// Null for another name.
inline const KnownAttack* FindAttack(const std::string& name) {
  const std::vector<KnownAttack>& known = KnownAttacks();
  const auto found = std::find_if(known.begin(), known.end(), [&](const auto& attack) { return attack.name == name; });
  return found == known.end() ? nullptr : &*found;
}

inline constexpr int kDefaultTargets = 9;  // of a targeted attack

}  // namespace ham
