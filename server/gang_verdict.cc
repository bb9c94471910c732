#include "server/gang_verdict.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace ham::server {
namespace {

constexpr double kHoldsUp = 1.0 / 3;

std::string Named(const GangRank& rank) { return absl::StrCat("rank ", rank.rank, " on ", rank.worker); }

// "ranks 0 and 2", as a sentence needs it.
std::string Numbers(const std::vector<int>& ranks) {
  if (ranks.size() == 1) return absl::StrCat("rank ", ranks[0]);
  return absl::StrCat("ranks ", absl::StrJoin(ranks.begin(), ranks.end() - 1, ", "), " and ", ranks.back());
}

std::string Meeting(int64_t meetings) {
  return meetings <= 1 ? "to connect" : absl::StrCat("in collective ", meetings - 1);
}

std::string Evidence(const GangRank& rank, const HangBounds& bounds) {
  const RankPulse& pulse = *rank.pulse;
  std::string text =
      absl::StrFormat("no tick for %s in phase \"%s\", where %s are allowed",
                      absl::FormatDuration(absl::Trunc(pulse.silence(), absl::Seconds(1))),
                      pulse.phase().empty() ? "start" : pulse.phase(),
                      absl::FormatDuration(absl::Trunc(pulse.Bound(bounds, rank.on_gpu), absl::Seconds(1))));
  if (pulse.stopped()) return absl::StrCat(text, "; its process is stopped by a signal or a debugger");
  if (pulse.blocked()) absl::StrAppend(&text, "; its process hangs within the kernel, on a disk or a device");
  return absl::StrFormat("%s; its process used %.1f s of CPU meanwhile", text,
                         absl::ToDoubleSeconds(pulse.cpu_in_silence()));
}

// `why` follows the names and the evidence of each.
Verdict Blame(const std::vector<const GangRank*>& culprits, const HangBounds& bounds, const std::string& why) {
  Verdict verdict;
  std::vector<std::string> parts;
  for (const GangRank* rank : culprits) {
    verdict.ranks.push_back(rank->rank);
    parts.push_back(absl::StrCat(Named(*rank), ": ", Evidence(*rank, bounds)));
  }
  verdict.message = absl::StrCat("Stuck: ", absl::StrJoin(parts, "; "), why, ".");
  return verdict;
}

}  // namespace

std::optional<Verdict> FindHang(const std::vector<GangRank>& gang, const HangBounds& bounds) {
  int64_t front = 0;
  for (const GangRank& rank : gang) front = std::max(front, rank.pulse->meetings());
  std::vector<const GangRank*> stopped, stuck_behind, computing, waiting;
  std::vector<int> at_front;
  bool all_stuck = true, any_behind = false;
  for (const GangRank& rank : gang) {
    const bool stuck = rank.heard && rank.pulse->IsStuck(bounds, rank.on_gpu);
    const bool behind = rank.pulse->meetings() < front;
    all_stuck = all_stuck && stuck;
    any_behind = any_behind || behind;
    if (!behind && rank.pulse->waits()) at_front.push_back(rank.rank);
    if (!stuck) continue;
    if (rank.pulse->stopped()) stopped.push_back(&rank);
    (behind ? stuck_behind : rank.pulse->waits() ? waiting : computing).push_back(&rank);
  }
  const std::string wait = at_front.empty() ? ""
                                            : absl::StrCat("; ", Numbers(at_front),
                                                           at_front.size() == 1 ? " waits " : " wait ", Meeting(front));
  if (!stopped.empty()) return Blame(stopped, bounds, "");
  if (!stuck_behind.empty()) return Blame(stuck_behind, bounds, wait);
  if (any_behind) return std::nullopt;
  if (!computing.empty()) return Blame(computing, bounds, wait);
  if (!all_stuck || waiting.empty()) return std::nullopt;
  return Blame(waiting, bounds,
               absl::StrCat("; all of them wait for each other ", Meeting(front),
                            gang.size() == 2 ? ": the link between the two is broken"
                                             : ": a link between two of them is broken"));
}

std::optional<Verdict> FindSlow(const std::vector<GangRank>& gang) {
  if (gang.size() < 2) return std::nullopt;
  const GangRank* slowest = nullptr;
  double least_of_others = 1;
  for (const GangRank& rank : gang) {
    const double share = rank.pulse->collective_share();
    if (share < 0 || !rank.heard) return std::nullopt;
    if (slowest != nullptr && share >= slowest->pulse->collective_share()) {
      least_of_others = std::min(least_of_others, share);
      continue;
    }
    if (slowest != nullptr) least_of_others = std::min(least_of_others, slowest->pulse->collective_share());
    slowest = &rank;
  }
  const double own = slowest->pulse->collective_share();
  if (least_of_others - own < kHoldsUp) return std::nullopt;
  return Verdict{{slowest->rank},
                 absl::StrFormat("Slow: %s waits for others in %.0f %% of its time, all others in %.0f %% and more.",
                                 Named(*slowest), 100 * own, 100 * least_of_others)};
}

}  // namespace ham::server
