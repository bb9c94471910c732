// What the GPUs of this worker measure, and whether they can be used, read about once a second on a thread of its own:
// NVML may wait long for a GPU in trouble.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "ham/v1/cluster_service.pb.h"
#include "ham/v1/worker_service.pb.h"
#include "worker/agent/nvml.h"

namespace ham::agent {

struct GpuMonitorOptions {
  std::string library = kNvmlLibrary;
  absl::Duration period = absl::Seconds(1);
  absl::Duration stale_after = absl::Seconds(10);
  bool shared = false;  // see GpuHealth
};

class GpuMonitor {
 public:
  // Slots without a GPU are left out; where none has one, there is no thread. Waits for the first look, at most half a
  // minute.
  GpuMonitor(const std::vector<ham::v1::Slot>& slots, GpuMonitorOptions options);
  // Does not wait for a GPU that does not answer.
  ~GpuMonitor();
  GpuMonitor(const GpuMonitor&) = delete;
  GpuMonitor& operator=(const GpuMonitor&) = delete;

  // The newest reading of each GPU that answers; none once NVML has been silent for stale_after. Any thread; does not
  // block.
  std::vector<ham::v1::GpuReading> Newest() const;
  // Of the newest look, which NVML's silence leaves as they are. Likewise.
  std::vector<ham::v1::SlotProblem> Problems() const;
  // The slots in which ham has a rank. Likewise.
  void SetOccupied(std::set<int> slots);

 private:
  struct State;
  static void Run(const std::shared_ptr<State>& state);

  const std::shared_ptr<State> state_;  // shared with a thread that may outlive this
  std::thread thread_;
};

}  // namespace ham::agent
