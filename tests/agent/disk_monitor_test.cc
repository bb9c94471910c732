#include "worker/agent/disk_monitor.h"

#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "tests/support/temporary_directory.h"

namespace ham::agent {
namespace {

TEST(DiskMonitor, AsksTheFileSystem) {
  const ham::testing::TemporaryDirectory folder;
  EXPECT_GT(FreeBytes(folder.path()).value_or(0), uint64_t{0});
  EXPECT_EQ(FreeBytes("/nonexistent"), std::nullopt);
  EXPECT_EQ(FreeBytes("/proc"), std::nullopt) << "it has no size";
  const DiskMonitor monitor(folder.path(), absl::Milliseconds(1));
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (!monitor.free_bytes() && absl::Now() < deadline) {
  }
  EXPECT_GT(monitor.free_bytes().value_or(0), uint64_t{0});
}

}  // namespace
}  // namespace ham::agent
