// What ranks run on: CPU slots and GPUs.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "ham/v1/cluster_service.pb.h"

namespace ham::agent {

// Those of `gpus` (as ListGpus gives them) that `visible`, the value of CUDA_VISIBLE_DEVICES, names by number or by a
// UUID's beginning, in its order, numbered anew: what a batch system gave to this process. All if it is null. As for
// CUDA, the first entry that is neither (-1, NoDevFiles) ends the list. Numbers are of NVML's order, that of the PCI
// bus, which is also CUDA's where all GPUs of a host are of one type. Pure.
std::vector<ham::v1::Slot> VisibleGpus(const std::vector<ham::v1::Slot>& gpus, const char* visible);

// CPU slots first, then `gpus` (as ListGpus gives them), numbered from 0. `cpu_slots` -1 means one a core, or none
// where there are GPUs.
std::vector<ham::v1::Slot> MakeSlots(int cpu_slots, std::vector<ham::v1::Slot> gpus);

// The trainer of GPUs lies beside that of CPUs: its name and "-cuda".
std::string CudaTrainer(const std::string& trainer);

// The program of a rank in `slot`, and the environment by which it sees just its slot. `data_interface`: that NCCL is
// to use between hosts; "" = it chooses.
std::string TrainerOf(const ham::v1::Slot& slot, const std::string& trainer);
std::vector<std::pair<std::string, std::string>> SlotEnvironment(const ham::v1::Slot& slot,
                                                                 const std::string& data_interface);

}  // namespace ham::agent
