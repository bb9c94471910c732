// A library in the place of NVML, with two GPUs; HAM_NVML_FAILS says which call fails, HAM_NVML_CODE with what.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

struct Memory {
  uint64_t total, free, used;
};

int Result(const char* name) {
  const char* fails = std::getenv("HAM_NVML_FAILS");
  if (fails == nullptr || std::string(fails) != name) return 0;
  return std::atoi(std::getenv("HAM_NVML_CODE"));
}

int g_devices[2];

}  // namespace

extern "C" {
int nvmlInit_v2() { return Result("init"); }
int nvmlShutdown() { return 0; }
int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = 2;
  return Result("count");
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  *device = &g_devices[index];
  return Result("handle");
}
int nvmlDeviceGetName(void*, char* text, unsigned size) {
  std::snprintf(text, size, "Scripted GPU");
  return Result("name");
}
#ifndef HAM_NVML_OLD
int nvmlDeviceGetUUID(void* device, char* text, unsigned size) {
  std::snprintf(text, size, "GPU-%d", static_cast<int>(static_cast<int*>(device) - g_devices));
  return Result("uuid");
}
#endif
int nvmlDeviceGetMemoryInfo(void*, Memory* memory) {
  memory->total = uint64_t{80} << 30;
  return Result("memory");
}
}
