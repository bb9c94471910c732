// Random walks through everything that can happen to a cluster. HAM_SEED chooses others.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>

#include "tests/simulation/shrink.h"

namespace {
uint64_t g_seed = 1;
}  // namespace

namespace ham::simulation {
namespace {

constexpr int kWalks = 6;
constexpr int64_t kWalkEvents = 20000;

TEST(CoordinatorSimulation, KeepsItsPromisesAndEndsEveryJob) {
  Coverage coverage;
  for (int i = 0; i < kWalks; ++i) {
    WorldOptions options;
    options.seed = g_seed * kWalks + static_cast<uint64_t>(i);
    const Walk walk = RunWalk(options, kWalkEvents);
    coverage.Add(walk.coverage);
    ASSERT_FALSE(walk.violation) << "HAM_SEED " << g_seed << ", " << walk.violation->ToString() << "\n"
                                 << Shrink(options, kWalkEvents, *walk.violation);
  }
  std::printf("%s", coverage.Table().c_str());
  // The walks went where they should.
  for (const std::string& missing : coverage.Missing(1, 1, 20))
    ADD_FAILURE() << "HAM_SEED " << g_seed << ": " << missing;
}

TEST(CoordinatorSimulation, ASeedReplaysAWalk) {
  WorldOptions options;
  options.seed = g_seed;
  const Walk once = RunWalk(options, 5000);
  EXPECT_EQ(RunWalk(options, 5000).digest, once.digest);
  options.seed = g_seed + 1;
  EXPECT_NE(RunWalk(options, 5000).digest, once.digest);
}

// At half the lease the same outages must kill: else the first part shows nothing.
TEST(CoordinatorSimulation, ShortOutagesCostNobodyARank) {
  WorldOptions options;
  options.seed = g_seed;
  options.healthy = true;
  options.lease = options.outage_bound = absl::Seconds(3);
  const Walk whole = RunWalk(options, std::numeric_limits<int64_t>::max(), absl::Hours(1));
  EXPECT_FALSE(whole.violation) << "HAM_SEED " << g_seed << ", " << whole.violation->ToString();
  options.lease = absl::Milliseconds(1500);
  const Walk half = RunWalk(options, std::numeric_limits<int64_t>::max(), absl::Hours(1));
  ASSERT_TRUE(half.violation);
  EXPECT_EQ(half.violation->promise, "no healthy gang is killed");
  EXPECT_THAT(Shrink(options, kWalkEvents, *half.violation), ::testing::HasSubstr(" events with \"short outage\" from"))
      << "all else can be left out";
}

}  // namespace
}  // namespace ham::simulation

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (const char* seed = std::getenv("HAM_SEED")) g_seed = std::strtoull(seed, nullptr, 10);
  std::printf("HAM_SEED=%llu\n", static_cast<unsigned long long>(g_seed));
  std::fflush(stdout);  // a walk that takes the process along must not take the seed along
  return RUN_ALL_TESTS();
}
