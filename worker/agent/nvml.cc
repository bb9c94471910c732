#include "worker/agent/nvml.h"

#include <dlfcn.h>

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ham::agent {
namespace {

// Types and numbers of NVML; they have been stable for a decade.
struct NvmlMemory {
  unsigned long long total;  // NOLINT: NVML's type
  unsigned long long free;   // NOLINT
  unsigned long long used;   // NOLINT
};
struct NvmlMemory2 {
  unsigned version;
  unsigned long long total;     // NOLINT: NVML's type
  unsigned long long reserved;  // NOLINT
  unsigned long long free;      // NOLINT
  unsigned long long used;      // NOLINT: without what is reserved
};
constexpr unsigned kNvmlMemory2Version = sizeof(NvmlMemory2) | 2U << 24;
struct NvmlProcess {
  unsigned pid;
  unsigned long long used_bytes;  // NOLINT: NVML's type; all ones where it is not known
  unsigned gpu_instance, compute_instance;
};
struct NvmlEvent {
  void* device;
  unsigned long long type;  // NOLINT: NVML's type
  unsigned long long data;  // NOLINT: of an error, its Xid
  unsigned gpu_instance, compute_instance;
};
struct NvmlUtilization {
  unsigned gpu;  // per cent
  unsigned memory;
};
struct NvmlPciInfo {
  char legacy_bus_id[16];
  unsigned domain, bus, device, device_id, subsystem_id;
  char bus_id[32];
};
constexpr int kNvmlSuccess = 0;
constexpr int kNvmlNotFound = 6;
constexpr int kNvmlInsufficientSize = 7;
constexpr int kNvmlDriverNotLoaded = 9;
constexpr int kNvmlFunctionNotFound = 13;
constexpr int kNvmlGpuIsLost = 15;
constexpr int kP2pByNvlink = 2;
constexpr int kP2pOk = 0;
constexpr int kTemperatureOfGpu = 0;
constexpr int kUncorrectedErrors = 1;
constexpr int kSinceDriverLoad = 0;
constexpr unsigned long long kEventXid = 8;  // NOLINT: NVML's type
constexpr unsigned kMostProcesses = 1024;
constexpr uint64_t kPowerCap = 0x04, kSoftwareThermal = 0x20, kHardwareThermal = 0x40, kPowerBrake = 0x80;
constexpr unsigned kTextBytes = 96;

absl::Status NvmlFailed(const char* what, int code) {
  return absl::UnavailableError(
      absl::StrCat("NVML: ", what, " failed with code ", code, ": see nvidia-smi, or give --no-gpu"));
}

}  // namespace

template <class... Arguments>
int Nvml::Call(const char* name, Arguments... arguments) {
  const auto function = reinterpret_cast<int (*)(Arguments...)>(::dlsym(handle_, name));
  return function == nullptr ? kNvmlFunctionNotFound : function(arguments...);
}

absl::StatusOr<std::unique_ptr<Nvml>> Nvml::Open(const std::string& library) {
  void* const handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return nullptr;
  // Not closed ever: its threads may outlive a dlclose.
  for (const char* name :
       {"nvmlInit_v2", "nvmlShutdown", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2",
        "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetName", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo"}) {
    if (::dlsym(handle, name) == nullptr) {
      return absl::UnavailableError(absl::StrCat("NVML has no ", name, ": update the NVIDIA driver, or give --no-gpu"));
    }
  }
  std::unique_ptr<Nvml> nvml(new Nvml(handle));
  const int code = nvml->Call("nvmlInit_v2");
  if (code == kNvmlDriverNotLoaded) return nullptr;
  if (code != kNvmlSuccess) return NvmlFailed("nvmlInit", code);
  return nvml;
}

Nvml::~Nvml() {
  if (xids_ != nullptr) Call("nvmlEventSetFree", xids_);
  Call("nvmlShutdown");
}

absl::StatusOr<std::vector<ham::v1::Slot>> Nvml::ListGpus() {
  unsigned count = 0;
  int code = Call("nvmlDeviceGetCount_v2", &count);
  if (code != kNvmlSuccess) return NvmlFailed("nvmlDeviceGetCount", code);
  std::vector<Device> devices(count);
  std::vector<ham::v1::Slot> slots(count);
  const std::string driver = DriverVersion();
  for (unsigned i = 0; i < count; ++i) {
    code = Call("nvmlDeviceGetHandleByIndex_v2", i, &devices[i]);
    if (code != kNvmlSuccess) return NvmlFailed("nvmlDeviceGetHandleByIndex", code);
    slots[i].set_index(static_cast<int32_t>(i));
    slots[i].mutable_gpu()->set_driver_version(driver);
    if (absl::Status status = Describe(devices[i], &slots[i]); !status.ok()) return status;
  }
  for (unsigned i = 0; i < count; ++i) {
    for (unsigned j = 0; j < count; ++j) {
      int linked = -1;
      if (i == j || Call("nvmlDeviceGetP2PStatus", devices[i], devices[j], kP2pByNvlink, &linked) != kNvmlSuccess) {
        continue;
      }
      if (linked == kP2pOk) slots[i].mutable_gpu()->add_nvlink_slots(static_cast<int32_t>(j));
    }
  }
  return slots;
}

absl::Status Nvml::Describe(Device device, ham::v1::Slot* slot) {
  std::array<char, kTextBytes> uuid{};
  std::array<char, kTextBytes> name{};
  NvmlMemory memory{};
  int code = Call("nvmlDeviceGetUUID", device, uuid.data(), kTextBytes);
  if (code == kNvmlSuccess) code = Call("nvmlDeviceGetName", device, name.data(), kTextBytes);
  if (code == kNvmlSuccess) code = Call("nvmlDeviceGetMemoryInfo", device, &memory);
  if (code != kNvmlSuccess) return NvmlFailed("nvmlDeviceGetUUID, Name or MemoryInfo", code);
  slot->set_device("cuda");
  slot->set_device_id(uuid.data());
  slot->set_device_name(name.data());
  slot->set_memory_bytes(static_cast<int64_t>(memory.total));
  if (NvmlPciInfo pci{}; Call("nvmlDeviceGetPciInfo_v3", device, &pci) == kNvmlSuccess) {
    slot->mutable_gpu()->set_pci_bus_id(pci.bus_id);
  }
  int major = 0;
  int minor = 0;
  if (Call("nvmlDeviceGetCudaComputeCapability", device, &major, &minor) == kNvmlSuccess) {
    slot->mutable_gpu()->set_compute_capability(absl::StrCat(major, ".", minor));
  }
  return absl::OkStatus();
}

std::string Nvml::DriverVersion() {
  std::array<char, kTextBytes> version{};
  return Call("nvmlSystemGetDriverVersion", version.data(), kTextBytes) == kNvmlSuccess ? version.data() : "";
}

absl::StatusOr<ham::v1::GpuReading> Nvml::Read(const std::string& uuid) {
  Device device = nullptr;
  int code = FindDevice(uuid, &device);
  NvmlMemory memory{};
  if (code == kNvmlSuccess) code = Call("nvmlDeviceGetMemoryInfo", device, &memory);
  if (code != kNvmlSuccess) return NvmlFailed(absl::StrCat("reading ", uuid).c_str(), code);
  ham::v1::GpuReading reading;
  reading.set_memory_used_bytes(static_cast<int64_t>(memory.used));
  if (NvmlUtilization share{}; Call("nvmlDeviceGetUtilizationRates", device, &share) == kNvmlSuccess) {
    reading.set_utilization(share.gpu / 100.0);
  }
  if (unsigned milliwatts = 0; Call("nvmlDeviceGetPowerUsage", device, &milliwatts) == kNvmlSuccess) {
    reading.set_power_watts(milliwatts / 1000.0);
  }
  if (unsigned celsius = 0; Call("nvmlDeviceGetTemperature", device, kTemperatureOfGpu, &celsius) == kNvmlSuccess) {
    reading.set_temperature_celsius(celsius);
  }
  unsigned long long errors = 0;  // NOLINT: NVML's type
  if (Call("nvmlDeviceGetTotalEccErrors", device, kUncorrectedErrors, kSinceDriverLoad, &errors) == kNvmlSuccess) {
    reading.set_ecc_errors(static_cast<int64_t>(errors));
  }
  unsigned long long reasons = 0;  // NOLINT: NVML's type
  if (Call("nvmlDeviceGetCurrentClocksThrottleReasons", device, &reasons) == kNvmlSuccess) {
    ham::v1::GpuReading::Throttle& throttle = *reading.mutable_throttle();
    throttle.set_hardware_thermal((reasons & kHardwareThermal) != 0);
    throttle.set_software_thermal((reasons & kSoftwareThermal) != 0);
    throttle.set_power_brake((reasons & kPowerBrake) != 0);
    throttle.set_power_cap((reasons & kPowerCap) != 0);
  }
  return reading;
}

absl::StatusOr<GpuState> Nvml::Look(const std::string& uuid) {
  Device device = nullptr;
  GpuState state;
  NvmlMemory memory{};
  NvmlMemory2 exact{};
  exact.version = kNvmlMemory2Version;
  int code = FindDevice(uuid, &device);
  const bool known = code == kNvmlSuccess;
  if (known) code = Call("nvmlDeviceGetMemoryInfo", device, &memory);
  if ((known && code == kNvmlGpuIsLost) || code == kNvmlNotFound) {
    return absl::NotFoundError(absl::StrCat("the driver has lost it (NVML's code ", code, ")"));
  }
  if (code != kNvmlSuccess) return NvmlFailed(absl::StrCat("looking at ", uuid).c_str(), code);
  const bool is_exact = Call("nvmlDeviceGetMemoryInfo_v2", device, &exact) == kNvmlSuccess;
  state.memory_used_bytes = is_exact ? exact.used : memory.used;
  state.processes = ProcessesOn(device);
  unsigned corrected = 0, uncorrected = 0, pending = 0, failed = 0;
  if (Call("nvmlDeviceGetRemappedRows", device, &corrected, &uncorrected, &pending, &failed) == kNvmlSuccess) {
    state.needs_reset = pending != 0;
    state.defective = failed != 0;
  }
  return state;
}

int Nvml::FindDevice(const std::string& uuid, Device* device) {
  if (const auto known = devices_.find(uuid); known != devices_.end()) {
    *device = known->second;
    return kNvmlSuccess;
  }
  const int code = Call("nvmlDeviceGetHandleByUUID", uuid.c_str(), device);
  if (code == kNvmlSuccess) devices_[uuid] = *device;
  return code;
}

std::vector<GpuProcess> Nvml::ProcessesOn(Device device) {
  // Version 3 had larger entries in some releases of the driver.
  const char* const name = "nvmlDeviceGetComputeRunningProcesses_v2";
  std::vector<NvmlProcess> found(16);
  unsigned count = static_cast<unsigned>(found.size());
  int code = Call(name, device, &count, found.data());
  while (code == kNvmlInsufficientSize && found.size() < kMostProcesses) {  // there may be more by then
    found.resize(2 * found.size());
    count = static_cast<unsigned>(found.size());
    code = Call(name, device, &count, found.data());
  }
  std::vector<GpuProcess> processes;
  for (unsigned i = 0; code == kNvmlSuccess && i < count; ++i) {
    GpuProcess& process = processes.emplace_back();
    process.pid = static_cast<int>(found[i].pid);
    if (~found[i].used_bytes != 0) process.memory_bytes = found[i].used_bytes;
  }
  return processes;
}

bool Nvml::WatchXids(const std::vector<std::string>& uuids) {
  if (Call("nvmlEventSetCreate", &xids_) != kNvmlSuccess) return false;
  bool any = false;
  for (const std::string& uuid : uuids) {
    Device device = nullptr;
    any |= FindDevice(uuid, &device) == kNvmlSuccess &&
           Call("nvmlDeviceRegisterEvents", device, kEventXid, xids_) == kNvmlSuccess;
  }
  return any;
}

std::optional<GpuXid> Nvml::NextXid(absl::Duration timeout) {
  NvmlEvent event{};
  const auto milliseconds = static_cast<unsigned>(absl::ToInt64Milliseconds(timeout));
  if (Call("nvmlEventSetWait_v2", xids_, &event, milliseconds) != kNvmlSuccess || event.type != kEventXid) {
    return std::nullopt;
  }
  for (const auto& [uuid, device] : devices_) {
    if (device == event.device) return GpuXid{uuid, event.data};
  }
  return std::nullopt;
}

absl::StatusOr<std::vector<ham::v1::Slot>> ListGpus(const std::string& library) {
  const absl::StatusOr<std::unique_ptr<Nvml>> nvml = Nvml::Open(library);
  if (!nvml.ok()) return nvml.status();
  if (*nvml == nullptr) return std::vector<ham::v1::Slot>();
  return (*nvml)->ListGpus();
}

}  // namespace ham::agent
