// A library in the place of NVML, with three GPUs, GPU-0 and GPU-1 linked by NVLink; what they measure is made of their
// number. HAM_NVML_PLAIN: a library that has only what is needed; HAM_NVML_OLD: not even that.
#include "tests/agent/scripted_nvml.h"

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
  memory->used = uint64_t{1 + NumberOf(device)} << 30;
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
