#include "worker/agent/slots.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <string>

namespace ham::agent {
namespace {

TEST(Slots, AreNumberedFromZero) {
  const std::vector<ham::v1::Slot> slots = MakeSlots(3, {});
  ASSERT_EQ(slots.size(), 3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(slots[i].index(), i);
    EXPECT_EQ(slots[i].device(), "cpu");
    EXPECT_EQ(slots[i].device_id(), "");
    EXPECT_EQ(slots[i].memory_bytes(), 0);
  }
}

TEST(Slots, AreAsManyAsCoresUnlessSaid) {
  cpu_set_t before;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(before), &before), 0);
  EXPECT_EQ(MakeSlots(-1, {}).size(), static_cast<size_t>(CPU_COUNT(&before)));
  // What a container or taskset leaves to this process counts, not what the host has.
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++i) {
    if (CPU_ISSET(i, &before)) CPU_SET(i, &one);
  }
  ASSERT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
  EXPECT_EQ(MakeSlots(-1, {}).size(), 1);
  EXPECT_EQ(::sched_setaffinity(0, sizeof(before), &before), 0);
  EXPECT_TRUE(MakeSlots(0, {}).empty());
}

TEST(Slots, ATrainerSeesJustItsSlot) {
  ham::v1::Slot slot;
  EXPECT_EQ(SlotEnvironment(slot, "").at(0), std::make_pair(std::string("CUDA_VISIBLE_DEVICES"), std::string()));
  slot.set_device_id("GPU-1");
  EXPECT_EQ(SlotEnvironment(slot, "").at(0).second, "GPU-1");
  EXPECT_EQ(SlotEnvironment(slot, "").size(), 1);
  EXPECT_EQ(SlotEnvironment(slot, "eth1").at(1),
            std::make_pair(std::string("NCCL_SOCKET_IFNAME"), std::string("=eth1")));
}

TEST(Slots, GpusHaveATrainerOfTheirOwn) {
  ham::v1::Slot slot;
  slot.set_device("cpu");
  EXPECT_EQ(TrainerOf(slot, "/bin/ham-trainer"), "/bin/ham-trainer");
  slot.set_device("cuda");
  EXPECT_EQ(TrainerOf(slot, "/bin/ham-trainer"), "/bin/ham-trainer-cuda");
}

}  // namespace
}  // namespace ham::agent
