// What each *_fuzz.cc defines for fuzz_main.cc: one parser of bytes from outside, with what must hold of its answers.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace ham::fuzz {

// Inputs to start from.
std::vector<std::string> Seeds();
// One input; stops the program where a promise is broken.
void TryInput(const std::string& input);

inline void Check(bool holds, const std::string& promise) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", promise.c_str());
  std::abort();
}

}  // namespace ham::fuzz
