// What a test tells the library in the place of NVML, through `ham_nvml_script` of the library it loads.
#pragma once

#include <atomic>

namespace ham::testing {

struct NvmlScript {
  std::atomic<const char*> failing = "";  // the call that fails: "init", "count", "handle", "name", "uuid", "memory"
  std::atomic<int> code = 0;              // with which it fails
  std::atomic<bool> hangs = false;        // calls for memory do not return while it holds; notify when it changes
  std::atomic<int> processes = 0;         // on GPU-1, each this one, with 512 MiB
  std::atomic<bool> remapping = false;    // rows of GPU-1 wait for a reset
  std::atomic<unsigned> xid = 0;          // the next error of GPU-1; 0 once it is told
};

}  // namespace ham::testing
