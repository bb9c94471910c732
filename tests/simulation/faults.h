// What goes wrong in a simulation, and how often.
#pragma once

#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>

namespace ham::simulation {

enum class Fault {
  // A message, or what carries it.
  kDelay,         // it is late, and all behind it on its stream
  kLoss,          // it never comes
  kDuplicate,     // it comes again, up to half a minute later
  kReorder,       // messages of an old stream come after those of the new one
  kReplay,        // a message of any age comes again
  kBrokenStream,  // a control stream ends
  // The network of an agent.
  kPartitionUp,    // nothing reaches the coordinator
  kPartitionDown,  // nothing reaches the agent
  kPartition,      // neither way
  kSwitchFails,    // most agents are cut off together
  kShortOutage,    // up to 0.9 of a lease, and nothing else: must cost nobody a rank
  // The coordinator's disk.
  kCommitFails,
  kDiskFull,
  kTornCommit,       // it dies in a commit: of that transaction nothing is left
  kCrashUnanswered,  // it dies behind a commit: all of it is left, nobody was told
  // Processes and hosts.
  kCoordinatorCrash,
  kCoordinatorPause,
  kAgentCrash,
  kAgentSilent,  // stopped, as by SIGSTOP; its trainers go on
  kHostGone,     // for good; another one takes its place
  kTrainerCrash,
  kTrainerPreempted,
  kTrainerStuck,   // alive, without progress until somebody ends it
  kTrainerGoesOn,  // for minutes, although it was told to end
  kLinkBroken,     // the ranks of a gang wait for each other
  kUserError,
  kBrokenSpec,         // of a stored job
  kDamagedCheckpoint,  // the newest of a job
  kClockStep,          // of the coordinator's wall clock
  kSlotProblem,        // a slot must not be used for some time
  kAgentLeaves,        // told to stop: it ends its trainers, says so, and comes back as another process
};
inline constexpr size_t kFaultKinds = static_cast<size_t>(Fault::kAgentLeaves) + 1;

using FaultSet = std::bitset<kFaultKinds>;

const char* NameOf(Fault fault);

// How probable each is where it may strike. Another mix for each seed, so that walks differ in more than their dice:
// each kind is left out of some, and frequent in others.
std::array<double, kFaultKinds> FaultRates(uint64_t seed, const FaultSet& allowed);

}  // namespace ham::simulation
