// Random walks through everything that can happen to a cluster. HAM_SEED chooses another walk.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/simulation/world.h"

namespace {
uint64_t g_seed = 1;
}  // namespace

namespace ham::simulation {
namespace {

TEST(CoordinatorSimulation, KeepsItsPromisesAndEndsEveryJob) {
  World world(g_seed);
  world.RunWithFaults(100000);
  const bool ended = world.violations().empty() && world.RunToTheEnd(absl::Hours(6));
  std::map<std::string, int64_t> statistics = world.Statistics();
  for (const auto& [what, count] : statistics) std::printf("%s: %lld\n", what.c_str(), static_cast<long long>(count));
  for (const std::string& sentence : world.violations()) ADD_FAILURE() << "seed " << g_seed << ", " << sentence;
  EXPECT_TRUE(ended) << "seed " << g_seed << ": " << world.Unfinished();
  // The walk went where it should.
  for (const char* what : {"agent crashes",
                           "broken connections",
                           "coordinator starts",
                           "store failures",
                           "stale beats",
                           "fenced checkpoints",
                           "event COORDINATOR_RESTARTED",
                           "requests while the store fails",
                           "partitions",
                           "timers in a freeze",
                           "ranks whose lease ended",
                           "old checkpoints",
                           "event WORKER_LOST",
                           "event TRAINER_CRASH",
                           "event BACKOFF",
                           "event RANKS_JOINED",
                           "pools done",
                           "jobs SUCCEEDED",
                           "jobs FAILED",
                           "jobs CANCELLED"}) {
    EXPECT_GT(statistics[what], 0) << "seed " << g_seed << ": never met: " << what;
  }
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
