// How often the host waits for the GPU.
#pragma once

#include <atomic>
#include <string>

#include <c10/cuda/CUDAFunctions.h>
#include <c10/util/Exception.h>

namespace ham::testing {

// While one lives, counts what LibTorch does that waits for the GPU; not the calls of CUDA that others make. One at a
// time.
class CountSyncs {
 public:
  CountSyncs() { c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_WARN); }
  ~CountSyncs() { c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_DISABLED); }
  CountSyncs(const CountSyncs&) = delete;
  CountSyncs& operator=(const CountSyncs&) = delete;

  int count() const { return counter_.count; }

 private:
  struct Counter : c10::WarningHandler {
    void process(const c10::Warning& warning) override {
      if (warning.msg().find("synchronizing CUDA operation") != std::string::npos) ++count;
    }
    std::atomic<int> count{0};
  };

  Counter counter_;
  const c10::WarningUtils::WarningHandlerGuard guard_{&counter_};
};

}  // namespace ham::testing
