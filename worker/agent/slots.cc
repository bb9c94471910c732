#include "worker/agent/slots.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "absl/strings/ascii.h"

namespace ham::agent {
namespace {

int Cores() {
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    std::string name = line.substr(line.find(':') + 1);
    absl::StripAsciiWhitespace(&name);
    return name;
  }
  return "";
}

}  // namespace

std::vector<ham::v1::Slot> MakeSlots(int cpu_slots, std::vector<ham::v1::Slot> gpus) {
  if (cpu_slots < 0) cpu_slots = gpus.empty() ? Cores() : 0;
  std::vector<ham::v1::Slot> slots;
  for (int i = 0; i < cpu_slots; ++i) {
    ham::v1::Slot& slot = slots.emplace_back();
    slot.set_index(i);
    slot.set_device("cpu");
    slot.set_device_name(CpuName());
  }
  for (ham::v1::Slot& gpu : gpus) {
    gpu.set_index(gpu.index() + cpu_slots);
    for (int32_t& linked : *gpu.mutable_gpu()->mutable_nvlink_slots()) linked += cpu_slots;
    slots.push_back(std::move(gpu));
  }
  return slots;
}

std::string CudaTrainer(const std::string& trainer) { return trainer + "-cuda"; }

std::string TrainerOf(const ham::v1::Slot& slot, const std::string& trainer) {
  return slot.device() == "cuda" ? CudaTrainer(trainer) : trainer;
}

std::vector<std::pair<std::string, std::string>> SlotEnvironment(const ham::v1::Slot& slot,
                                                                 const std::string& data_interface) {
  // An empty list hides every GPU from a CPU rank.
  std::vector<std::pair<std::string, std::string>> environment = {{"CUDA_VISIBLE_DEVICES", slot.device_id()}};
  // '=': this one, not all whose names begin so.
  if (!data_interface.empty()) environment.emplace_back("NCCL_SOCKET_IFNAME", "=" + data_interface);
  return environment;
}

}  // namespace ham::agent
