#include "server/scheduling_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ham::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

FreeSlot Slot(const std::string& worker, int index, const std::string& digest = "d1", const std::string& build = "b1",
              const std::string& device = "cpu") {
  FreeSlot slot;
  slot.worker_id = "id-" + worker;
  slot.worker_name = worker;
  slot.index = index;
  slot.device = device;
  slot.build_id = build;
  slot.data_sets = {{"fashion-mnist", digest}};
  return slot;
}

QueuedJob Job(const std::string& name, int world_size, const std::string& device = "cpu") {
  return {name, world_size, device, "fashion-mnist"};
}

std::vector<std::string> Places(const Grant& grant) {
  std::vector<std::string> places;
  for (const FreeSlot& slot : grant.slots) places.push_back(slot.worker_name + "/" + std::to_string(slot.index));
  return places;
}

Schedule Plan(const std::vector<QueuedJob>& queue, const std::vector<FreeSlot>& free) {
  return SubmitOrderGangs().Plan(queue, free, free);
}

TEST(SubmitOrderGangs, GrantsInSubmitOrder) {
  const Schedule plan = Plan({Job("first", 1), Job("second", 1)}, {Slot("a", 0), Slot("a", 1)});
  ASSERT_EQ(plan.grants.size(), 2u);
  EXPECT_EQ(plan.grants[0].job, "first");
  EXPECT_THAT(Places(plan.grants[0]), ElementsAre("a/0"));
  EXPECT_THAT(Places(plan.grants[1]), ElementsAre("a/1"));
  EXPECT_THAT(plan.refusals, IsEmpty());
}

TEST(SubmitOrderGangs, GivesAllOrNothing) {
  const std::vector<FreeSlot> all = {Slot("a", 0), Slot("a", 1)};
  const Schedule plan = SubmitOrderGangs().Plan({Job("pair", 2)}, {all[0]}, all);
  EXPECT_THAT(plan.grants, IsEmpty());
  ASSERT_EQ(plan.refusals.size(), 1u);
  EXPECT_EQ(plan.refusals[0].reason, "WAITING_FOR_SLOTS");
  EXPECT_THAT(plan.refusals[0].message, HasSubstr("Needs 2 cpu slots; 1 are free together"));
}

TEST(SubmitOrderGangs, LetsNobodyOvertakeAJobThatWaits) {
  const std::vector<FreeSlot> all = {Slot("a", 0), Slot("a", 1)};
  const Schedule plan = SubmitOrderGangs().Plan({Job("pair", 2), Job("single", 1)}, {all[0]}, all);
  EXPECT_THAT(plan.grants, IsEmpty());
  ASSERT_EQ(plan.refusals.size(), 2u);
  EXPECT_EQ(plan.refusals[1].job, "single");
  EXPECT_EQ(plan.refusals[1].reason, "BEHIND_EARLIER_JOB");
}

TEST(SubmitOrderGangs, LetsOthersPassAJobThatCannotFit) {
  const Schedule plan = Plan({Job("huge", 3), Job("gpu", 1, "cuda"), Job("pair", 2)}, {Slot("a", 0), Slot("b", 0)});
  ASSERT_EQ(plan.grants.size(), 1u);
  EXPECT_EQ(plan.grants[0].job, "pair");
  ASSERT_EQ(plan.refusals.size(), 2u);
  EXPECT_EQ(plan.refusals[0].reason, "NO_WORKER_FITS");
  EXPECT_THAT(plan.refusals[0].message, HasSubstr("could hold is 2"));
  EXPECT_EQ(plan.refusals[1].reason, "NO_WORKER_FITS");
  EXPECT_THAT(plan.refusals[1].message, HasSubstr("no connected worker has any"));
}

TEST(SubmitOrderGangs, SaysThatAnEmptyClusterFitsNothing) {
  const Schedule plan = Plan({Job("one", 1)}, {});
  ASSERT_EQ(plan.refusals.size(), 1u);
  EXPECT_EQ(plan.refusals[0].reason, "NO_WORKER_FITS");
}

TEST(SubmitOrderGangs, NeverMixesBuildsDigestsOrDevices) {
  for (const FreeSlot& other : {Slot("b", 0, "d2"), Slot("b", 0, "d1", "b2"), Slot("b", 0, "d1", "b1", "cuda")}) {
    const Schedule plan = Plan({Job("pair", 2)}, {Slot("a", 0), other});
    EXPECT_THAT(plan.grants, IsEmpty());
    ASSERT_EQ(plan.refusals.size(), 1u);
    EXPECT_EQ(plan.refusals[0].reason, "NO_WORKER_FITS");
    EXPECT_THAT(plan.refusals[0].message, HasSubstr("could hold is 1"));
  }
}

TEST(SubmitOrderGangs, NeedsTheDataSet) {
  FreeSlot bare = Slot("a", 0);
  bare.data_sets.clear();
  EXPECT_EQ(Plan({Job("one", 1)}, {bare}).refusals.at(0).reason, "NO_WORKER_FITS");
}

TEST(SubmitOrderGangs, TakesTheGroupWithMostFreeSlots) {
  const Schedule plan = Plan({Job("one", 1)}, {Slot("a", 0, "d1"), Slot("b", 0, "d2"), Slot("c", 0, "d2")});
  EXPECT_THAT(Places(plan.grants.at(0)), ElementsAre("b/0"));
}

TEST(SubmitOrderGangs, BreaksTiesOfGroupsByDigestThenBuild) {
  EXPECT_THAT(Places(Plan({Job("one", 1)}, {Slot("a", 0, "d2"), Slot("b", 0, "d1")}).grants.at(0)), ElementsAre("b/0"));
  EXPECT_THAT(Places(Plan({Job("one", 1)}, {Slot("a", 0, "d1", "b2"), Slot("b", 0, "d1", "b1")}).grants.at(0)),
              ElementsAre("b/0"));
}

TEST(SubmitOrderGangs, UsesFewestHosts) {
  const Schedule plan = Plan({Job("pair", 2)}, {Slot("a", 0), Slot("b", 0), Slot("b", 1), Slot("c", 3), Slot("c", 4)});
  EXPECT_THAT(Places(plan.grants.at(0)), ElementsAre("b/0", "b/1"));
}

TEST(SubmitOrderGangs, KeepsALongQueueCheap) {
  std::vector<QueuedJob> queue;
  for (int i = 0; i < 10000; ++i) queue.push_back(Job("job-" + std::to_string(i), 1 + i % 2));
  std::vector<FreeSlot> all;
  for (int i = 0; i < 64; ++i) all.push_back(Slot("worker-" + std::to_string(i), 0));
  const Schedule plan = SubmitOrderGangs().Plan(queue, {}, all);
  EXPECT_EQ(plan.refusals.size(), queue.size());
  EXPECT_EQ(plan.refusals[0].reason, "WAITING_FOR_SLOTS");
  EXPECT_EQ(plan.refusals[9999].reason, "BEHIND_EARLIER_JOB");
}

}  // namespace
}  // namespace ham::server
