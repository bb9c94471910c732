// Entry points of libFuzzer. `PROGRAM --write-seeds DIRECTORY` writes the first inputs there instead.
#include <cstdint>
#include <fstream>
#include <string>

#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  if (*argc != 3 || std::string((*argv)[1]) != "--write-seeds") return 0;
  int number = 0;
  for (const std::string& seed : ham::fuzz::Seeds()) {
    std::ofstream file((*argv)[2] + ("/seed-" + std::to_string(number++)), std::ios::binary);
    if (!(file << seed)) std::exit(1);
  }
  std::exit(0);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ham::fuzz::TryInput(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
