// The engine beside PyTorch: all models, where PyTorch for Python is.
#include <cstdlib>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>

namespace ham::trainer {
namespace {

TEST(InteropTest, WeightsTravelBothWays) {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::string python =
      (cache != nullptr ? std::string(cache) : std::string(home != nullptr ? home : "") + "/.cache") +
      "/ham/peer-venv/bin/python";
  if (!std::filesystem::exists(python))
    GTEST_SKIP() << "no PyTorch for Python at " << python << "; tests/figures makes it";
  const std::string command = python + " " HAM_INTEROP_DIR "/pytorch_peer.py interop " HAM_ENGINE_PEER;
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
}

}  // namespace
}  // namespace ham::trainer
