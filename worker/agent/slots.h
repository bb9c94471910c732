// What ranks may run on: GPUs found by NVML, and CPU slots.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "ham/v1/cluster_service.pb.h"

namespace ham::agent {

// CPU slots first, then GPUs, numbered from 0. `cpu_slots` -1 means one a core, or none where there are GPUs.
// Unavailable when NVML is there but fails: its answer says what to do, or --no-gpu.
absl::StatusOr<std::vector<ham::v1::Slot>> ListSlots(int cpu_slots, bool no_gpu);

// GPUs by UUID, as `library` (NVML) lists them; empty if the library is not installed. index is not set.
absl::StatusOr<std::vector<ham::v1::Slot>> ListGpus(const std::string& library = "libnvidia-ml.so.1");

// Environment by which a trainer sees just its slot.
std::vector<std::pair<std::string, std::string>> SlotEnvironment(const ham::v1::Slot& slot);

}  // namespace ham::agent
