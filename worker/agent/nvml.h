// NVML, NVIDIA's library for managing GPUs, as far as the agent needs it. Looked up at run time: no header and no
// driver has to be there to build this, none to run it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "ham/v1/cluster_service.pb.h"
#include "ham/v1/worker_service.pb.h"

namespace ham::agent {

inline constexpr char kNvmlLibrary[] = "libnvidia-ml.so.1";

// A process that uses a GPU.
struct GpuProcess {
  int pid = 0;
  std::optional<uint64_t> memory_bytes = std::nullopt;
  std::string user = {};  // left empty here
};

// What may speak against using a GPU; empty where NVML does not tell.
struct GpuState {
  uint64_t memory_used_bytes = 0;  // without what the driver keeps for itself
  std::vector<GpuProcess> processes = {};
  bool needs_reset = false;  // rows of its memory wait to be remapped
  bool defective = false;    // such rows could not be remapped
};

// A critical error as the driver numbers them.
struct GpuXid {
  std::string uuid;
  uint64_t xid = 0;
};

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
  // NotFound when the driver has lost that GPU, Unavailable for other failures.
  absl::StatusOr<GpuState> Look(const std::string& uuid);
  // From now on NextXid() tells of errors of these GPUs. False where that cannot be had.
  bool WatchXids(const std::vector<std::string>& uuids);
  // Waits that long for the next one.
  std::optional<GpuXid> NextXid(absl::Duration timeout);

 private:
  using Device = void*;

  explicit Nvml(void* handle) : handle_(handle) {}
  // What the function returns, kNvmlFunctionNotFound if this NVML has none of that name. The types of `arguments` must
  // be those of its prototype.
  template <class... Arguments>
  int Call(const char* name, Arguments... arguments);
  absl::Status Describe(Device device, ham::v1::Slot* slot);
  std::string DriverVersion();
  // Of a GPU's UUID, looked for once: later that fails for all GPUs if one is lost.
  int FindDevice(const std::string& uuid, Device* device);
  std::vector<GpuProcess> ProcessesOn(Device device);

  void* const handle_;
  std::map<std::string, Device> devices_;  // by UUID
  void* xids_ = nullptr;                   // NVML's set of events
};

// None where NVML is not installed.
absl::StatusOr<std::vector<ham::v1::Slot>> ListGpus(const std::string& library = kNvmlLibrary);

}  // namespace ham::agent
