// Which CPUs a rank in a CPU slot may run on: ranks of one host do not take each other's caches, and do not wander.
#pragma once

#include <string>
#include <vector>

namespace ham::agent {

using CpuSet = std::vector<int>;  // numbers of CPUs, as the kernel's

// What this process may run on, by physical core, ascending; none where the kernel does not say.
std::vector<CpuSet> AllowedCores();

// An equal share of `cores` for each of `slots` slots: whole cores as far as there is one for each; else CPUs, those of
// a core in different slots only when each core has one. No shares where there are fewer CPUs than slots. Pure.
std::vector<CpuSet> CpuShares(const std::vector<CpuSet>& cores, int slots);

// That of the slot for a rank of a gang whose threads have a CPU each there. Else none, and the kernel chooses: the
// helpers of a rank alone may find an idle CPU elsewhere. Pure.
CpuSet PlacementOf(const std::vector<CpuSet>& shares, int slot, int threads, int world_size);

// "0,2,5", and the way back; no CPU for any other text.
std::string CpuSetText(const CpuSet& cpus);
CpuSet ParseCpuSet(const std::string& text);

// Of the calling thread and all that it starts. False, with errno, where the kernel refuses.
bool RunOnlyOn(const CpuSet& cpus);

}  // namespace ham::agent
