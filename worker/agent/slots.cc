#include "worker/agent/slots.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

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

// Which of `gpus` an entry of CUDA_VISIBLE_DEVICES names; gpus.size() if none.
size_t NamedGpu(const std::vector<ham::v1::Slot>& gpus, absl::string_view entry) {
  unsigned number = 0;
  if (absl::SimpleAtoi(entry, &number)) return std::min<size_t>(number, gpus.size());
  const auto named = std::ranges::find_if(
      gpus, [entry](const ham::v1::Slot& gpu) { return !entry.empty() && absl::StartsWith(gpu.device_id(), entry); });
  return static_cast<size_t>(named - gpus.begin());
}

}  // namespace

std::vector<ham::v1::Slot> VisibleGpus(const std::vector<ham::v1::Slot>& gpus, const char* visible) {
  if (visible == nullptr) return gpus;
  std::vector<ham::v1::Slot> kept;
  std::map<int, int> new_index;  // by the old one
  for (const absl::string_view entry : absl::StrSplit(visible, ',')) {
    const size_t named = NamedGpu(gpus, absl::StripAsciiWhitespace(entry));
    if (named == gpus.size()) break;
    const int index = static_cast<int>(kept.size());
    if (!new_index.try_emplace(gpus[named].index(), index).second) continue;
    kept.push_back(gpus[named]);
    kept.back().set_index(index);
  }
  for (ham::v1::Slot& gpu : kept) {
    std::vector<int> linked;
    for (const int32_t old : gpu.gpu().nvlink_slots()) {
      if (const auto found = new_index.find(old); found != new_index.end()) linked.push_back(found->second);
    }
    std::ranges::sort(linked);
    gpu.mutable_gpu()->mutable_nvlink_slots()->Assign(linked.begin(), linked.end());
  }
  return kept;
}

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
