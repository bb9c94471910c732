#include "server/gang_verdict.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace ham::server {
namespace {

constexpr double kHoldsUp = 1.0 / 3;

constexpr size_t kMostNamed = 3;

std::string Named(const GangRank& rank) { return absl::StrCat("rank ", rank.rank, " on ", rank.worker); }

std::string MeetingText(int64_t meetings) {
  return meetings <= 1 ? "to connect" : absl::StrCat("in collective ", meetings - 1);
}

// "; ranks 0, 2 wait in collective 7".
std::string WaitText(const std::vector<int>& ranks, int64_t meetings) {
  if (ranks.empty()) return "";
  const size_t named = std::min(ranks.size(), kMostNamed);
  std::string list = absl::StrJoin(ranks.begin(), ranks.begin() + named, ", ");
  if (ranks.size() > named) absl::StrAppend(&list, " and ", ranks.size() - named, " more");
  return absl::StrCat("; ", ranks.size() == 1 ? "rank " : "ranks ", list, ranks.size() == 1 ? " waits " : " wait ",
                      MeetingText(meetings));
}

std::string WithoutPeriod(const std::string& sentence) {
  return sentence.ends_with('.') ? sentence.substr(0, sentence.size() - 1) : sentence;
}

std::string Evidence(const GangRank& rank, const HangBounds& bounds) {
  const RankPulse& pulse = *rank.pulse;
  const auto seconds = [](absl::Duration d) { return absl::FormatDuration(absl::Trunc(d, absl::Seconds(1))); };
  std::string text = absl::StrCat("no tick for ", seconds(pulse.silence()), " in phase \"", pulse.phase(), "\", where ",
                                  seconds(pulse.Bound(bounds, rank.on_gpu)), " are allowed");
  if (pulse.stopped()) return absl::StrCat(text, "; its process is stopped by a signal or a debugger");
  if (pulse.blocked()) absl::StrAppend(&text, "; its process waits within the kernel, for a disk or a device");
  if (const auto cpu = pulse.cpu_in_silence()) {
    absl::StrAppendFormat(&text, "; its process used %.1f s of CPU meanwhile", absl::ToDoubleSeconds(*cpu));
  }
  if (const auto share = pulse.gpu_in_silence()) {
    absl::StrAppendFormat(&text, "; its GPU was busy in %.0f %% of that time", 100 * *share);
  }
  if (!rank.problem.empty()) absl::StrAppend(&text, "; of its slot: ", WithoutPeriod(rank.problem));
  return text;
}

// `why` follows the names and the evidence of the first ranks.
Verdict Blame(const std::vector<const GangRank*>& culprits, const HangBounds& bounds, const std::string& why) {
  Verdict verdict;
  std::vector<std::string> parts;
  for (const GangRank* rank : culprits) {
    verdict.ranks.push_back(rank->rank);
    if (parts.size() < kMostNamed) parts.push_back(absl::StrCat(Named(*rank), ": ", Evidence(*rank, bounds)));
  }
  verdict.message = absl::StrCat("Stuck: ", absl::StrJoin(parts, "; "));
  if (culprits.size() > parts.size()) {
    absl::StrAppend(&verdict.message, "; and ", culprits.size() - parts.size(), " more ranks");
  }
  absl::StrAppend(&verdict.message, why, ".");
  return verdict;
}

Verdict BlameLink(const std::vector<const GangRank*>& waiting, const HangBounds& bounds, const std::string& why) {
  Verdict verdict = Blame(waiting, bounds, absl::StrCat(why, ": a link between ranks is broken"));
  verdict.link = true;
  return verdict;
}

}  // namespace

std::optional<Verdict> FindHang(const std::vector<GangRank>& gang, const HangBounds& bounds) {
  int64_t front = 0;
  for (const GangRank& rank : gang) front = std::max(front, rank.pulse->meetings());
  std::vector<const GangRank*> stopped, working, working_behind, waiting, waiting_behind;
  std::vector<int> at_front;  // and wait
  bool all_stuck = true, any_behind = false;
  for (const GangRank& rank : gang) {
    const bool stuck = rank.heard && rank.pulse->IsStuck(bounds, rank.on_gpu);
    const bool behind = rank.pulse->meetings() < front, waits = rank.pulse->waits();
    all_stuck = all_stuck && stuck;
    any_behind = any_behind || behind;
    if (!behind && waits) at_front.push_back(rank.rank);
    if (!stuck) continue;
    if (rank.pulse->stopped()) stopped.push_back(&rank);
    (behind ? waits ? waiting_behind : working_behind : waits ? waiting : working).push_back(&rank);
  }
  const std::string wait = WaitText(at_front, front);
  if (!stopped.empty()) return Blame(stopped, bounds, "");
  if (!working_behind.empty()) return Blame(working_behind, bounds, wait);
  if (any_behind && !all_stuck) return std::nullopt;
  if (any_behind) return BlameLink(waiting_behind, bounds, absl::StrCat(", and waits for others too", wait));
  if (!working.empty()) return Blame(working, bounds, wait);
  if (!all_stuck || waiting.empty()) return std::nullopt;
  return BlameLink(waiting, bounds, absl::StrCat("; all wait for each other ", MeetingText(front)));
}

std::string NotThere(const std::vector<GangRank>& gang, int rank) {
  int64_t meetings = 0;
  for (const GangRank& own : gang) meetings = own.rank == rank ? own.pulse->meetings() : meetings;
  std::vector<std::string> behind;
  for (const GangRank& other : gang) {
    if (other.pulse->meetings() < meetings && behind.size() < kMostNamed) behind.push_back(Named(other));
  }
  if (behind.empty()) return ".";
  return absl::StrCat("; ", absl::StrJoin(behind, ", "), behind.size() == 1 ? " has" : " have", " not come there.");
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
  return Verdict{
      .ranks = {slowest->rank},
      .link = false,
      .message = absl::StrFormat("Slow: %s waits for others in %.0f %% of its time, all others in %.0f %% and more.",
                                 Named(*slowest), 100 * own, 100 * least_of_others)};
}

}  // namespace ham::server
