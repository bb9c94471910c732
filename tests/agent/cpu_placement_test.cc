#include "worker/agent/cpu_placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <thread>

namespace ham::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Four cores of two threads, numbered as Linux does.
const std::vector<CpuSet> kCores = {{0, 4}, {1, 5}, {2, 6}, {3, 7}};

TEST(CpuShares, WholeCoresWhileThereAreSome) {
  EXPECT_THAT(CpuShares(kCores, 1), ElementsAre(ElementsAre(0, 4, 1, 5, 2, 6, 3, 7)));
  EXPECT_THAT(CpuShares(kCores, 2), ElementsAre(ElementsAre(0, 4, 1, 5), ElementsAre(2, 6, 3, 7)));
  EXPECT_THAT(CpuShares(kCores, 3), ElementsAre(ElementsAre(0, 4), ElementsAre(1, 5), ElementsAre(2, 6)));
}

TEST(CpuShares, CoresBeforeTheirSiblings) {
  const auto five = CpuShares(kCores, 5);
  EXPECT_THAT(five, ElementsAre(ElementsAre(0), ElementsAre(1), ElementsAre(2), ElementsAre(3), ElementsAre(4)));
  EXPECT_EQ(CpuShares(kCores, 8).size(), 8);
  EXPECT_EQ(CpuShares({{0}, {1, 5}}, 3).back(), CpuSet{5});
}

TEST(CpuShares, NoneWhereSlotsAreMoreThanCpus) {
  EXPECT_THAT(CpuShares(kCores, 9), IsEmpty());
  EXPECT_THAT(CpuShares(kCores, 0), IsEmpty());
  EXPECT_THAT(CpuShares({}, 1), IsEmpty());
}

TEST(Placement, IsOfGangsWhoseThreadsFit) {
  const auto shares = CpuShares(kCores, 2);
  EXPECT_EQ(PlacementOf(shares, 1, 4, 2), shares[1]);
  EXPECT_THAT(PlacementOf(shares, 1, 5, 2), IsEmpty());
  EXPECT_THAT(PlacementOf(shares, 1, 4, 1), IsEmpty());  // alone
  EXPECT_THAT(PlacementOf(shares, 2, 1, 2), IsEmpty());  // a GPU
  EXPECT_THAT(PlacementOf({}, 0, 1, 2), IsEmpty());
}

TEST(CpuSetText, ThereAndBack) {
  EXPECT_EQ(CpuSetText({0, 12, 5}), "0,12,5");
  EXPECT_EQ(ParseCpuSet("0,12,5"), (CpuSet{0, 12, 5}));
  for (const char* text : {"", "a", "1,", "-1", "1024", "0-3"}) EXPECT_THAT(ParseCpuSet(text), IsEmpty()) << text;
}

TEST(AllowedCores, AreWhatThisProcessMayUse) {
  cpu_set_t before;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(before), &before), 0);
  int count = 0, last = -1;
  for (const CpuSet& core : AllowedCores()) {
    for (const int cpu : core) {
      EXPECT_TRUE(CPU_ISSET(cpu, &before)) << cpu;
      ++count;
      last = cpu;
    }
  }
  EXPECT_EQ(count, CPU_COUNT(&before));
  std::thread([last] {  // in a thread, so that the others stay as they are
    ASSERT_TRUE(RunOnlyOn({last}));
    EXPECT_THAT(AllowedCores(), ElementsAre(ElementsAre(last)));
  })
      .join();
}

}  // namespace
}  // namespace ham::agent
