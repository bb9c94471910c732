// Whether the ranks of an attempt hang, and by whose fault: pure functions of what each has reported.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server/rank_pulse.h"

namespace ham::server {

// A rank that has not ended.
struct GangRank {
  int rank = 0;
  std::string worker;  // its name
  bool heard = true;   // the worker's last beat is not overdue: what it says of the rank is of now
  bool on_gpu = false;
  std::string problem;               // SlotProblem.message of its slot
  const RankPulse* pulse = nullptr;  // not null
};

struct Verdict {
  std::vector<int> ranks;  // ascending; at least one
  bool link = false;       // it is not these ranks that fail, but the way between them and others
  std::string message;     // one sentence, with the evidence; names a few ranks at most
};

// The ranks because of which a gang is stuck. A rank that waits where ranks meet is never to blame as long as another
// one has not come there; that one is, once it is stuck itself. If those that are behind wait too, or all wait in the
// same place, the links between them are. A process that was stopped is named first. None while the rank that is waited
// for lives, or is not heard of: its worker's lease decides.
std::optional<Verdict> FindHang(const std::vector<GangRank>& gang, const HangBounds& bounds);

// Of a rank that waited in vain: "; rank 1 on b has not come there." with those that are behind it, or ".".
std::string NotThere(const std::vector<GangRank>& gang, int rank);

// The rank that all others wait for in more than a third of their time than it waits itself.
std::optional<Verdict> FindSlow(const std::vector<GangRank>& gang);

}  // namespace ham::server
