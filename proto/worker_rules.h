// What a worker may call itself and bring along; checked by the agent at start, and by the coordinator again.
#pragma once

#include <string>

namespace ham {

inline constexpr int kMostSlots = 1024;  // of one worker
inline constexpr size_t kMostWorkerNameBytes = 63;
inline constexpr size_t kMostManifestBytes = 1 << 20;  // of a checkpoint
// Of an evaluation: with what wraps it, a longer one would not fit into a message of 4 MiB. The inputs of 200,000
// images are about 3 MiB.
inline constexpr size_t kMostFindingBytes = (4 << 20) - (64 << 10);
// The coordinator keeps and shows these as they come, so each has a bound.
inline constexpr int kMostDataSets = 1000;          // of one worker
inline constexpr size_t kMostInventoryBytes = 255;  // of a device's id or name, of a data set's name
inline constexpr size_t kMostGpuBytes = 4096;       // of a slot's Gpu: room for links to kMostSlots
inline constexpr size_t kMostIdentifierBytes = 64;  // of worker_id, incarnation, build_id, a data set's digest

inline bool IsWorkerNameCharacter(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

// [a-z0-9]([a-z0-9-]*[a-z0-9])?, at most 63.
inline bool IsWorkerName(const std::string& name) {
  if (name.empty() || name.size() > kMostWorkerNameBytes) return false;
  for (const char c : name) {
    if (!IsWorkerNameCharacter(c) && c != '-') return false;
  }
  return name.front() != '-' && name.back() != '-';
}

}  // namespace ham
