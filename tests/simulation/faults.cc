#include "tests/simulation/faults.h"

#include <cmath>

#include "tests/simulation/random.h"

namespace ham::simulation {
namespace {

struct Kind {
  const char* name;
  double rate;  // a message, a second of an agent or trainer, a batch with or without a commit, a step of the clients
};

// In the order of Fault. About one of each kind a thousand events.
constexpr std::array<Kind, kFaultKinds> kKinds = {{
    {"delay", 0.01},
    {"loss", 0.02},
    {"duplicate", 0.01},
    {"reorder", 0.5},
    {"replay", 0.006},
    {"broken stream", 0.004},
    {"partition up", 0.0022},
    {"partition down", 0.0022},
    {"partition", 0.0022},
    {"switch fails", 0.25},
    {"short outage", 0.006},
    {"commit fails", 0.02},
    {"disk full", 0.014},
    {"torn commit", 0.014},
    {"crash unanswered", 0.014},
    {"coordinator crash", 0.002},
    {"coordinator pause", 0.002},
    {"agent crash", 0.0022},
    {"agent silent", 0.0022},
    {"host gone", 0.0022},
    {"trainer crash", 0.008},
    {"trainer preempted", 0.006},
    {"trainer stuck", 0.006},
    {"trainer goes on", 0.03},
    {"link broken", 0.006},
    {"user error", 0.004},
    {"broken spec", 0.25},
    {"damaged checkpoint", 0.25},
    {"clock step", 0.3},
    {"slot problem", 0.004},
    {"agent leaves", 0.0022},
}};

}  // namespace

const char* NameOf(Fault fault) { return kKinds[static_cast<size_t>(fault)].name; }

std::array<double, kFaultKinds> FaultRates(uint64_t seed, const FaultSet& allowed) {
  Random random(seed, 0xfa);
  std::array<double, kFaultKinds> rates = {};
  for (size_t i = 0; i < kFaultKinds; ++i) {
    const bool in = random.Chance(0.75);
    const double factor = std::exp2(3 * random.Unit() - 1.5);
    if (in && allowed[i]) rates[i] = kKinds[i].rate * factor;
  }
  return rates;
}

}  // namespace ham::simulation
