#include "worker/agent/slots.h"

#include <dlfcn.h>
#include <sched.h>

#include <array>
#include <fstream>
#include <memory>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace ham::agent {
namespace {

// The few prototypes of NVML that are needed; they have been stable for a decade, and no header has to be installed.
using NvmlDevice = void*;
struct NvmlMemory {
  unsigned long long total;  // NOLINT: NVML's type
  unsigned long long free;   // NOLINT
  unsigned long long used;   // NOLINT
};
constexpr int kNvmlSuccess = 0;
constexpr int kNvmlDriverNotLoaded = 9;
constexpr unsigned kTextBytes = 96;

class Nvml {
 public:
  explicit Nvml(const std::string& library) : handle_(::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL)) {}
  ~Nvml() {
    if (initialised_) Call<int (*)()>("nvmlShutdown")();
    // Not closed: its threads may outlive a dlclose.
  }
  bool installed() const { return handle_ != nullptr; }

  // False where there is no driver to talk to.
  absl::StatusOr<bool> Initialise() {
    for (const char* name : {"nvmlInit_v2", "nvmlShutdown", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2",
                             "nvmlDeviceGetName", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo"}) {
      if (::dlsym(handle_, name) == nullptr) {
        return absl::UnavailableError(
            absl::StrCat("NVML has no ", name, ": update the NVIDIA driver, or give --no-gpu"));
      }
    }
    const int code = Call<int (*)()>("nvmlInit_v2")();
    if (code == kNvmlDriverNotLoaded) return false;
    if (code != kNvmlSuccess) return Failed("nvmlInit", code);
    initialised_ = true;
    return true;
  }

  absl::StatusOr<unsigned> Count() {
    unsigned count = 0;
    const int code = Call<int (*)(unsigned*)>("nvmlDeviceGetCount_v2")(&count);
    if (code != kNvmlSuccess) return Failed("nvmlDeviceGetCount", code);
    return count;
  }

  absl::StatusOr<ham::v1::Slot> Device(unsigned index) {
    NvmlDevice device = nullptr;
    int code = Call<int (*)(unsigned, NvmlDevice*)>("nvmlDeviceGetHandleByIndex_v2")(index, &device);
    if (code != kNvmlSuccess) return Failed("nvmlDeviceGetHandleByIndex", code);
    std::array<char, kTextBytes> uuid{};
    std::array<char, kTextBytes> name{};
    NvmlMemory memory{};
    using TextOf = int (*)(NvmlDevice, char*, unsigned);
    code = Call<TextOf>("nvmlDeviceGetUUID")(device, uuid.data(), kTextBytes);
    if (code == kNvmlSuccess) code = Call<TextOf>("nvmlDeviceGetName")(device, name.data(), kTextBytes);
    if (code == kNvmlSuccess) {
      code = Call<int (*)(NvmlDevice, NvmlMemory*)>("nvmlDeviceGetMemoryInfo")(device, &memory);
    }
    if (code != kNvmlSuccess) return Failed("nvmlDeviceGetUUID, Name or MemoryInfo", code);
    ham::v1::Slot slot;
    slot.set_device("cuda");
    slot.set_device_id(uuid.data());
    slot.set_device_name(name.data());
    slot.set_memory_bytes(static_cast<int64_t>(memory.total));
    return slot;
  }

 private:
  template <class Function>
  Function Call(const char* name) {
    return reinterpret_cast<Function>(::dlsym(handle_, name));
  }
  static absl::Status Failed(const char* what, int code) {
    return absl::UnavailableError(
        absl::StrCat("NVML: ", what, " failed with code ", code, ": see nvidia-smi, or give --no-gpu"));
  }

  void* const handle_;
  bool initialised_ = false;
};

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

absl::StatusOr<std::vector<ham::v1::Slot>> ListGpus(const std::string& library) {
  std::vector<ham::v1::Slot> slots;
  Nvml nvml(library);
  if (!nvml.installed()) return slots;
  const absl::StatusOr<bool> ready = nvml.Initialise();
  if (!ready.ok()) return ready.status();
  if (!*ready) return slots;
  const absl::StatusOr<unsigned> count = nvml.Count();
  if (!count.ok()) return count.status();
  for (unsigned i = 0; i < *count; ++i) {
    absl::StatusOr<ham::v1::Slot> slot = nvml.Device(i);
    if (!slot.ok()) return slot.status();
    slots.push_back(*std::move(slot));
  }
  return slots;
}

absl::StatusOr<std::vector<ham::v1::Slot>> ListSlots(int cpu_slots, bool no_gpu) {
  std::vector<ham::v1::Slot> gpus;
  if (!no_gpu) {
    absl::StatusOr<std::vector<ham::v1::Slot>> found = ListGpus();
    if (!found.ok()) return found.status();
    gpus = *std::move(found);
  }
  if (cpu_slots < 0) cpu_slots = gpus.empty() ? Cores() : 0;
  std::vector<ham::v1::Slot> slots;
  for (int i = 0; i < cpu_slots; ++i) {
    ham::v1::Slot& slot = slots.emplace_back();
    slot.set_device("cpu");
    slot.set_device_name(CpuName());
  }
  for (ham::v1::Slot& gpu : gpus) slots.push_back(std::move(gpu));
  for (size_t i = 0; i < slots.size(); ++i) slots[i].set_index(static_cast<int32_t>(i));
  return slots;
}

std::vector<std::pair<std::string, std::string>> SlotEnvironment(const ham::v1::Slot& slot) {
  // An empty list hides every GPU from a CPU rank.
  return {{"CUDA_VISIBLE_DEVICES", slot.device_id()}};
}

}  // namespace ham::agent
