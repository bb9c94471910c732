#include "tests/simulation/shrink.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace ham::simulation {

Walk RunWalk(const WorldOptions& options, int64_t events, absl::Duration time) {
  World world(options);
  world.RunUntil(events, time);
  world.RunToTheEnd(absl::Hours(6));
  Walk walk{.violation = std::nullopt,
            .events = world.events(),
            .time = world.now(),
            .digest = world.digest(),
            .coverage = world.coverage(),
            .trace = world.trace()};
  if (!world.violations().empty()) walk.violation = world.violations().front();
  return walk;
}

std::string Shrink(const WorldOptions& failing, int64_t most, const Violation& violation) {
  WorldOptions best = failing;
  int64_t events = std::min(violation.event + 1, most);  // with faults; what breaks in the calm needs all of them
  const std::string promise = violation.promise;
  const auto still_fails = [&](const WorldOptions& options) {
    const Walk walk = RunWalk(options, events);
    if (!walk.violation || walk.violation->promise != promise) return false;
    best = options;
    events = std::min(walk.violation->event + 1, events);
    return true;
  };
  for (size_t kind = 0; kind < kFaultKinds; ++kind) {
    WorldOptions less = best;
    less.faults.reset(kind);
    still_fails(less);
  }
  for (size_t agent = 0; agent < 7; ++agent) {
    WorldOptions less = best;
    less.without.insert(agent);
    still_fails(less);
  }
  for (int64_t step = events / 2; step > 50; step /= 2) {
    WorldOptions less = best;
    less.faults_from += step;
    still_fails(less);
  }
  best.trace = true;
  const Walk last = RunWalk(best, events);
  std::string report = absl::StrCat("seed ", best.seed, ", shrunk to ", last.events, " events with");
  for (size_t kind = 0; kind < kFaultKinds; ++kind) {
    if (best.faults[kind]) absl::StrAppend(&report, " \"", NameOf(static_cast<Fault>(kind)), "\"");
  }
  absl::StrAppend(&report, best.faults.none() ? " no faults" : "", " from event ", best.faults_from, ", without ",
                  best.without.size(), " of the agents\n");
  for (const std::string& line : last.trace) absl::StrAppend(&report, "  ", line, "\n");
  if (last.violation) absl::StrAppend(&report, last.violation->ToString(), "\n");
  return report;
}

}  // namespace ham::simulation
