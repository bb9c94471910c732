// A library in the place of NVML, with three GPUs, GPU-0 and GPU-1 linked by NVLink; what they measure is made of their
// number. While there is a file named by $HAM_NVML_BUSY, 40 GiB more of GPU-2 are in use. HAM_NVML_PLAIN: a library
// that has only what is needed; HAM_NVML_OLD: not even that.
#include "tests/agent/scripted_nvml.h"

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

struct Memory {
  uint64_t total, free, used;
};

int g_devices[3];
ham::testing::NvmlScript g_script;

int Result(const char* name) { return std::string(g_script.failing) == name ? g_script.code.load() : 0; }

unsigned NumberOf(void* device) { return static_cast<unsigned>(static_cast<int*>(device) - g_devices); }

}  // namespace

extern "C" {
ham::testing::NvmlScript* ham_nvml_script() { return &g_script; }

int nvmlInit_v2() { return Result("init"); }
int nvmlShutdown() { return 0; }
int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = 3;
  return Result("count");
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  *device = &g_devices[index];
  return Result("handle");
}
int nvmlDeviceGetHandleByUUID(const char* uuid, void** device) {
  *device = &g_devices[uuid[4] - '0'];
  return Result("handle");
}
int nvmlDeviceGetName(void*, char* text, unsigned size) {
  std::snprintf(text, size, "Scripted GPU");
  return Result("name");
}
#ifndef HAM_NVML_OLD
int nvmlDeviceGetUUID(void* device, char* text, unsigned size) {
  std::snprintf(text, size, "GPU-%u", NumberOf(device));
  return Result("uuid");
}
#endif
int nvmlDeviceGetMemoryInfo(void* device, Memory* memory) {
  g_script.hangs.wait(true);
  memory->total = uint64_t{80} << 30;
  memory->used = uint64_t{1 + NumberOf(device)} << 28;
  const char* const busy = std::getenv("HAM_NVML_BUSY");
  if (NumberOf(device) == 2 && busy != nullptr && access(busy, F_OK) == 0) memory->used += uint64_t{40} << 30;
  return Result("memory");
}

#ifndef HAM_NVML_PLAIN
struct Utilization {
  unsigned gpu, memory;
};
struct PciInfo {
  char legacy_bus_id[16];
  unsigned domain, bus, device, device_id, subsystem_id;
  char bus_id[32];
};

struct Process {
  unsigned pid;
  uint64_t used_bytes;
  unsigned gpu_instance, compute_instance;
};
struct Memory2 {
  unsigned version;
  uint64_t total, reserved, free, used;
};
struct Event {
  void* device;
  uint64_t type, data;
  unsigned gpu_instance, compute_instance;
};

// Half of what is in use is the driver's.
int nvmlDeviceGetMemoryInfo_v2(void* device, Memory2* memory) {
  if (memory->version != (sizeof(Memory2) | 2U << 24)) return 25;
  Memory all{};
  const int code = nvmlDeviceGetMemoryInfo(device, &all);
  memory->total = all.total;
  memory->used = memory->reserved = all.used / 2;
  return code;
}
int nvmlDeviceGetComputeRunningProcesses_v2(void* device, unsigned* count, Process* processes) {
  const unsigned room = *count;
  *count = NumberOf(device) == 1 ? static_cast<unsigned>(g_script.processes.load()) : 0;
  if (*count > room) return 7;
  for (unsigned i = 0; i < *count; ++i) {
    processes[i] = {static_cast<unsigned>(getpid()), i == 0 ? uint64_t{512} << 20 : ~uint64_t{0}, 0, 0};
  }
  return 0;
}
int nvmlDeviceGetRemappedRows(void* device, unsigned* corrected, unsigned* uncorrected, unsigned* pending,
                              unsigned* failed) {
  *corrected = *uncorrected = *failed = 0;
  *pending = NumberOf(device) == 1 && g_script.remapping ? 1 : 0;
  return 0;
}
int nvmlEventSetCreate(void** set) {
  *set = &g_script;
  return 0;
}
int nvmlEventSetFree(void*) { return 0; }
int nvmlDeviceRegisterEvents(void*, uint64_t types, void* set) { return types == 8 && set == &g_script ? 0 : 2; }
int nvmlEventSetWait_v2(void*, Event* event, unsigned) {
  const unsigned xid = g_script.xid.exchange(0);
  if (xid == 0) return 10;
  *event = {&g_devices[1], 8, xid, 0, 0};
  return 0;
}

int nvmlSystemGetDriverVersion(char* text, unsigned size) {
  std::snprintf(text, size, "580.1");
  return 0;
}
int nvmlDeviceGetPciInfo_v3(void* device, PciInfo* pci) {
  std::snprintf(pci->bus_id, sizeof(pci->bus_id), "00000000:%02X:00.0", NumberOf(device));
  return 0;
}
int nvmlDeviceGetCudaComputeCapability(void*, int* major, int* minor) {
  *major = 9;
  *minor = 0;
  return 0;
}
int nvmlDeviceGetP2PStatus(void* one, void* other, int by_what, int* status) {
  if (by_what != 2) return 2;
  *status = NumberOf(one) + NumberOf(other) == 1 ? 0 : 1;
  return 0;
}
int nvmlDeviceGetUtilizationRates(void* device, Utilization* share) {
  share->gpu = 50 + NumberOf(device);
  return 0;
}
int nvmlDeviceGetPowerUsage(void* device, unsigned* milliwatts) {
  *milliwatts = 400'500 + NumberOf(device);
  return 0;
}
int nvmlDeviceGetTemperature(void* device, int sensor, unsigned* celsius) {
  *celsius = 60 + NumberOf(device);
  return sensor == 0 ? 0 : 2;
}
int nvmlDeviceGetTotalEccErrors(void* device, int kind, int counter, uint64_t* errors) {
  *errors = 7 + NumberOf(device);
  return kind == 1 && counter == 0 ? 0 : 2;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void* device, uint64_t* reasons) {
  *reasons = NumberOf(device) == 0 ? 0x44 : 0xa0;
  return 0;
}
#endif
}
