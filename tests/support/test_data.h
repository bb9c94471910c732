// Real data sets for tests, in the folder that the environment variable HAM_TEST_DATA names; tests skip aloud where it
// is not set or lacks what they need.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace ham::testing {

// The path of `name` in that folder, or "".
inline std::string TestData(const std::string& name) {
  const char* const folder = std::getenv("HAM_TEST_DATA");
  if (folder == nullptr) return "";
  const std::filesystem::path path = std::filesystem::path(folder) / name;
  return std::filesystem::exists(path) ? path.string() : "";
}

}  // namespace ham::testing
