// What a test tells the library in the place of NVML, through `ham_nvml_script` of the library it loads.
#pragma once

#include <atomic>

namespace ham::testing {

struct NvmlScript {
  std::atomic<const char*> failing = "";  // the call that fails: "init", "count", "handle", "name", "uuid", "memory"
  std::atomic<int> code = 0;              // with which it fails
  std::atomic<bool> hangs = false;        // calls for memory do not return while it holds; notify when it changes
};

}  // namespace ham::testing
