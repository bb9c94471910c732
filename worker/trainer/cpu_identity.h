// What this process computes with.
#pragma once

#include <string>

namespace ham::trainer {

// As the system names it: "Intel(R) Xeon(R) CPU @ 2.90GHz"; "unknown" where it does not. Any thread.
std::string CpuModel();

// Widest instructions that LibTorch's kernels use here: "DEFAULT", "AVX2", "AVX512". Any thread.
std::string CpuInstructions();

std::string LibTorchVersion();

}  // namespace ham::trainer
