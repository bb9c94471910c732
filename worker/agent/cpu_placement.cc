#include "worker/agent/cpu_placement.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace ham::agent {
namespace {

// The first CPU of each core, then the second of each, ...
CpuSet CoresBeforeSiblings(const std::vector<CpuSet>& cores) {
  CpuSet out;
  size_t most = 0;
  for (const CpuSet& core : cores) most = std::max(most, core.size());
  for (size_t sibling = 0; sibling < most; ++sibling) {
    for (const CpuSet& core : cores) {
      if (sibling < core.size()) out.push_back(core[sibling]);
    }
  }
  return out;
}

}  // namespace

std::vector<CpuSet> AllowedCores() {
  cpu_set_t allowed;
  if (::sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return {};
  std::map<std::string, size_t> core_of;  // by its list of siblings
  std::vector<CpuSet> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    std::ifstream file(absl::StrCat("/sys/devices/system/cpu/cpu", cpu, "/topology/thread_siblings_list"));
    std::string siblings;
    if (!std::getline(file, siblings)) siblings = absl::StrCat("only ", cpu);
    const auto [core, is_new] = core_of.emplace(siblings, cores.size());
    if (is_new) cores.emplace_back();
    cores[core->second].push_back(cpu);
  }
  return cores;
}

std::vector<CpuSet> CpuShares(const std::vector<CpuSet>& cores, int slots) {
  if (slots < 1) return {};
  std::vector<CpuSet> shares;
  if (const size_t cores_each = cores.size() / slots; cores_each > 0) {
    for (int slot = 0; slot < slots; ++slot) {
      CpuSet& share = shares.emplace_back();
      for (size_t core = slot * cores_each; core < (slot + 1) * cores_each; ++core) {
        share.insert(share.end(), cores[core].begin(), cores[core].end());
      }
    }
    return shares;
  }
  const CpuSet cpus = CoresBeforeSiblings(cores);
  const size_t cpus_each = cpus.size() / slots;
  for (int slot = 0; slot < slots && cpus_each > 0; ++slot) {
    const auto begin = cpus.begin() + static_cast<std::ptrdiff_t>(slot * cpus_each);
    shares.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(cpus_each));
  }
  return shares;
}

CpuSet PlacementOf(const std::vector<CpuSet>& shares, int slot, int threads, int world_size) {
  if (world_size < 2 || slot < 0 || slot >= std::ssize(shares) || threads > std::ssize(shares[slot])) return {};
  return shares[slot];
}

std::string CpuSetText(const CpuSet& cpus) { return absl::StrJoin(cpus, ","); }

CpuSet ParseCpuSet(const std::string& text) {
  CpuSet cpus;
  for (const auto& number : absl::StrSplit(text, ',')) {
    int cpu = 0;
    if (!absl::SimpleAtoi(number, &cpu) || cpu < 0 || cpu >= CPU_SETSIZE) return {};
    cpus.push_back(cpu);
  }
  return cpus;
}

bool RunOnlyOn(const CpuSet& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(cpu, &set);
  return ::sched_setaffinity(0, sizeof(set), &set) == 0;
}

}  // namespace ham::agent
