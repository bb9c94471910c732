// NVML, NVIDIA's library for managing GPUs, as far as the agent needs it. Looked up at run time: no header and no
// driver has to be there to build this, none to run it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ham/v1/cluster_service.pb.h"
#include "ham/v1/worker_service.pb.h"

namespace ham::agent {

inline constexpr char kNvmlLibrary[] = "libnvidia-ml.so.1";

// One thread at a time.
class Nvml {
 public:
  // Null where the library or the driver is not installed. Unavailable when it is there but fails: the answer says what
  // to do, or --no-gpu.
  static absl::StatusOr<std::unique_ptr<Nvml>> Open(const std::string& library);
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  // With index and nvlink_slots numbered from 0. Unavailable as above.
  absl::StatusOr<std::vector<ham::v1::Slot>> ListGpus();
  // Of the GPU with this UUID; slot is not set. Unavailable when it no longer answers.
  absl::StatusOr<ham::v1::GpuReading> Read(const std::string& uuid);

 private:
  using Device = void*;

  explicit Nvml(void* handle) : handle_(handle) {}
  // What the function returns, kNvmlFunctionNotFound if this NVML has none of that name. The types of `arguments` must
  // be those of its prototype.
  template <class... Arguments>
  int Call(const char* name, Arguments... arguments);
  absl::Status Describe(Device device, ham::v1::Slot* slot);
  std::string DriverVersion();

  void* const handle_;
};

// None where NVML is not installed.
absl::StatusOr<std::vector<ham::v1::Slot>> ListGpus(const std::string& library = kNvmlLibrary);

}  // namespace ham::agent
