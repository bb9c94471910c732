#include "server/scheduling_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace ham::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A slot of its own: it can be viewed.
struct OwnSlot {
  std::string worker_id;
  std::string worker_name;
  int index;
  std::string device;
  std::string build_id;
  std::vector<ham::v1::DataSet> data_sets;
};

OwnSlot Slot(const std::string& worker, int index, const std::string& digest = "d1", const std::string& build = "b1",
             const std::string& device = "cpu") {
  ham::v1::DataSet data_set;
  data_set.set_name("fashion-mnist");
  data_set.set_digest(digest);
  return {"id-" + worker, worker, index, device, build, {data_set}};
}

std::vector<SlotView> Views(const std::vector<OwnSlot>& slots) {
  std::vector<SlotView> views;
  for (const OwnSlot& slot : slots) {
    views.push_back({slot.worker_id, slot.worker_name, slot.index, slot.device, slot.build_id, slot.data_sets});
  }
  return views;
}

QueuedJob Job(int world_size, std::string_view device = "cpu") { return {world_size, device, "fashion-mnist"}; }

// A plan that outlives its slots.
struct Planned {
  std::vector<size_t> granted;                   // jobs, as indices of the queue
  std::vector<std::vector<std::string>> places;  // of each, by rank: "worker/index"
  std::vector<size_t> refused;
  std::vector<WaitReason> reasons;  // of each
};

Planned Plan(const std::vector<QueuedJob>& queue, const std::vector<OwnSlot>& free, const std::vector<OwnSlot>& all) {
  const Schedule plan = SubmitOrderGangs().Plan(queue, Views(free), Views(all));
  Planned planned;
  for (const Grant& grant : plan.grants) {
    planned.granted.push_back(grant.job);
    std::vector<std::string>& places = planned.places.emplace_back();
    for (const SlotView& slot : grant.slots)
      places.push_back(absl::StrCat(std::string(slot.worker_name), "/", slot.index));
  }
  for (const Refusal& refusal : plan.refusals) {
    planned.refused.push_back(refusal.job);
    planned.reasons.push_back(plan.reasons.at(refusal.reason));
  }
  return planned;
}

Planned Plan(const std::vector<QueuedJob>& queue, const std::vector<OwnSlot>& free) { return Plan(queue, free, free); }

TEST(SubmitOrderGangs, GrantsInSubmitOrder) {
  const Planned plan = Plan({Job(1), Job(1)}, {Slot("a", 0), Slot("a", 1)});
  EXPECT_THAT(plan.granted, ElementsAre(0, 1));
  EXPECT_THAT(plan.places, ElementsAre(ElementsAre("a/0"), ElementsAre("a/1")));
  EXPECT_THAT(plan.refused, IsEmpty());
}

TEST(SubmitOrderGangs, GivesAllOrNothing) {
  const Planned plan = Plan({Job(2)}, {Slot("a", 0)}, {Slot("a", 0), Slot("a", 1)});
  EXPECT_THAT(plan.granted, IsEmpty());
  ASSERT_THAT(plan.refused, ElementsAre(0));
  EXPECT_EQ(plan.reasons[0].reason, "WAITING_FOR_SLOTS");
  EXPECT_THAT(plan.reasons[0].message, HasSubstr("Needs 2 cpu slots; 1 are free together"));
}

TEST(SubmitOrderGangs, LetsNobodyOvertakeAJobThatWaits) {
  const Planned plan = Plan({Job(2), Job(1)}, {Slot("a", 0)}, {Slot("a", 0), Slot("a", 1)});
  EXPECT_THAT(plan.granted, IsEmpty());
  ASSERT_THAT(plan.refused, ElementsAre(0, 1));
  EXPECT_EQ(plan.reasons[1].reason, "BEHIND_EARLIER_JOB");
}

TEST(SubmitOrderGangs, LetsOthersPassAJobThatCannotFit) {
  const Planned plan = Plan({Job(3), Job(1, "cuda"), Job(2)}, {Slot("a", 0), Slot("b", 0)});
  EXPECT_THAT(plan.granted, ElementsAre(2));
  ASSERT_THAT(plan.refused, ElementsAre(0, 1));
  EXPECT_EQ(plan.reasons[0].reason, "NO_WORKER_FITS");
  EXPECT_THAT(plan.reasons[0].message, HasSubstr("could hold is 2"));
  EXPECT_EQ(plan.reasons[1].reason, "NO_WORKER_FITS");
  EXPECT_THAT(plan.reasons[1].message, HasSubstr("no connected worker has any"));
}

TEST(SubmitOrderGangs, SaysThatAnEmptyClusterFitsNothing) {
  const Planned plan = Plan({Job(1)}, {});
  ASSERT_EQ(plan.refused.size(), 1u);
  EXPECT_EQ(plan.reasons[0].reason, "NO_WORKER_FITS");
}

TEST(SubmitOrderGangs, TellsEachJobItsOwnNeed) {
  QueuedJob pool = Job(5, "cuda");
  pool.pool = true;
  const Planned plan = Plan({Job(3), Job(4), pool, Job(3)}, {Slot("a", 0), Slot("b", 0)});
  ASSERT_THAT(plan.refused, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(plan.reasons[0].message, HasSubstr("Needs 3 cpu slots"));
  EXPECT_THAT(plan.reasons[1].message, HasSubstr("Needs 4 cpu slots"));
  EXPECT_THAT(plan.reasons[2].message, HasSubstr("Needs a cuda slot"));
  EXPECT_THAT(plan.reasons[3].message, HasSubstr("Needs 3 cpu slots"));
}

TEST(SubmitOrderGangs, NeverMixesBuildsDigestsOrDevices) {
  for (const OwnSlot& other : {Slot("b", 0, "d2"), Slot("b", 0, "d1", "b2"), Slot("b", 0, "d1", "b1", "cuda")}) {
    const Planned plan = Plan({Job(2)}, {Slot("a", 0), other});
    EXPECT_THAT(plan.granted, IsEmpty());
    ASSERT_EQ(plan.refused.size(), 1u);
    EXPECT_EQ(plan.reasons[0].reason, "NO_WORKER_FITS");
    EXPECT_THAT(plan.reasons[0].message, HasSubstr("could hold is 1"));
  }
}

TEST(SubmitOrderGangs, NeedsTheDataSet) {
  OwnSlot bare = Slot("a", 0);
  bare.data_sets.clear();
  EXPECT_EQ(Plan({Job(1)}, {bare}).reasons.at(0).reason, "NO_WORKER_FITS");
}

TEST(SubmitOrderGangs, TakesTheGroupWithMostFreeSlots) {
  const Planned plan = Plan({Job(1)}, {Slot("a", 0, "d1"), Slot("b", 0, "d2"), Slot("c", 0, "d2")});
  EXPECT_THAT(plan.places, ElementsAre(ElementsAre("b/0")));
}

TEST(SubmitOrderGangs, BreaksTiesOfGroupsByDigestThenBuild) {
  EXPECT_THAT(Plan({Job(1)}, {Slot("a", 0, "d2"), Slot("b", 0, "d1")}).places, ElementsAre(ElementsAre("b/0")));
  EXPECT_THAT(Plan({Job(1)}, {Slot("a", 0, "d1", "b2"), Slot("b", 0, "d1", "b1")}).places,
              ElementsAre(ElementsAre("b/0")));
}

TEST(SubmitOrderGangs, UsesFewestHosts) {
  const Planned plan = Plan({Job(2)}, {Slot("a", 0), Slot("b", 0), Slot("b", 1), Slot("c", 3), Slot("c", 4)});
  EXPECT_THAT(plan.places, ElementsAre(ElementsAre("b/0", "b/1")));
}

TEST(SubmitOrderGangs, WordsAReasonOnceForALongQueue) {
  std::vector<QueuedJob> queue;
  for (int i = 0; i < 10000; ++i) queue.push_back(Job(i % 4 == 3 ? 65 : 1 + i % 2));
  std::vector<OwnSlot> all;
  for (int i = 0; i < 64; ++i) all.push_back(Slot(absl::StrCat("worker-", i), 0));
  const Schedule plan = SubmitOrderGangs().Plan(queue, {}, Views(all));
  EXPECT_EQ(plan.refusals.size(), queue.size());
  EXPECT_EQ(plan.reasons.size(), 3u);
  EXPECT_EQ(plan.reasons.at(plan.refusals[0].reason).reason, "WAITING_FOR_SLOTS");
  EXPECT_EQ(plan.reasons.at(plan.refusals[9998].reason).reason, "BEHIND_EARLIER_JOB");
  EXPECT_EQ(plan.reasons.at(plan.refusals[9999].reason).reason, "NO_WORKER_FITS");
}

}  // namespace
}  // namespace ham::server
