#include "worker/trainer/cpu_identity.h"

#include <fstream>

#include <ATen/Version.h>
#include <torch/headeronly/version.h>

namespace ham::trainer {

std::string CpuModel() {
  std::ifstream processors("/proc/cpuinfo");
  for (std::string line; std::getline(processors, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

std::string CpuInstructions() { return at::get_cpu_capability(); }

std::string LibTorchVersion() { return TORCH_VERSION; }

}  // namespace ham::trainer
