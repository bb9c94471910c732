#include "worker/agent/slots.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <cstdlib>
#include <string>

namespace ham::agent {
namespace {

class GpuTest : public ::testing::Test {
 protected:
  ~GpuTest() override {
    ::unsetenv("HAM_NVML_FAILS");
    ::unsetenv("HAM_NVML_CODE");
  }
  static void Fail(const char* call, const char* code) {
    ::setenv("HAM_NVML_FAILS", call, 1);
    ::setenv("HAM_NVML_CODE", code, 1);
  }
};

TEST_F(GpuTest, AreListedByUuid) {
  const auto gpus = ListGpus(HAM_SCRIPTED_NVML);
  ASSERT_TRUE(gpus.ok()) << gpus.status();
  ASSERT_EQ(gpus->size(), 2);
  EXPECT_EQ(gpus->at(1).device(), "cuda");
  EXPECT_EQ(gpus->at(1).device_id(), "GPU-1");
  EXPECT_EQ(gpus->at(1).device_name(), "Scripted GPU");
  EXPECT_EQ(gpus->at(1).memory_bytes(), int64_t{80} << 30);
}

TEST_F(GpuTest, NoLibraryOrNoDriverMeansNone) {
  auto gpus = ListGpus("/nonexistent/libnvidia-ml.so.1");
  ASSERT_TRUE(gpus.ok()) << gpus.status();
  EXPECT_TRUE(gpus->empty());
  Fail("init", "9");
  gpus = ListGpus(HAM_SCRIPTED_NVML);
  ASSERT_TRUE(gpus.ok()) << gpus.status();
  EXPECT_TRUE(gpus->empty());
}

TEST_F(GpuTest, AFailureSaysWhatToDo) {
  for (const char* call : {"init", "count", "handle", "name", "uuid", "memory"}) {
    Fail(call, "15");
    const absl::Status status = ListGpus(HAM_SCRIPTED_NVML).status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << call << " " << status;
    EXPECT_NE(status.message().find("15"), std::string::npos) << status;
    EXPECT_NE(status.message().find("--no-gpu"), std::string::npos) << status;
  }
}

TEST_F(GpuTest, AnOldLibraryIsNamed) {
  const absl::Status status = ListGpus(HAM_SCRIPTED_NVML_OLD).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_NE(status.message().find("nvmlDeviceGetUUID"), std::string::npos) << status;
}

TEST(Slots, AreNumberedFromZero) {
  const auto slots = ListSlots(3, true);
  ASSERT_TRUE(slots.ok()) << slots.status();
  ASSERT_EQ(slots->size(), 3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(slots->at(i).index(), i);
    EXPECT_EQ(slots->at(i).device(), "cpu");
    EXPECT_EQ(slots->at(i).device_id(), "");
    EXPECT_EQ(slots->at(i).memory_bytes(), 0);
  }
}

TEST(Slots, AreAsManyAsCoresUnlessSaid) {
  cpu_set_t before;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(before), &before), 0);
  const auto all = ListSlots(-1, true);
  EXPECT_EQ(all->size(), static_cast<size_t>(CPU_COUNT(&before)));
  // What a container or taskset leaves to this process counts, not what the host has.
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++i) {
    if (CPU_ISSET(i, &before)) CPU_SET(i, &one);
  }
  ASSERT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
  EXPECT_EQ(ListSlots(-1, true)->size(), 1);
  EXPECT_EQ(::sched_setaffinity(0, sizeof(before), &before), 0);
  EXPECT_TRUE(ListSlots(0, true)->empty());
}

TEST(Slots, ATrainerSeesJustItsSlot) {
  ham::v1::Slot slot;
  EXPECT_EQ(SlotEnvironment(slot).at(0), std::make_pair(std::string("CUDA_VISIBLE_DEVICES"), std::string()));
  slot.set_device_id("GPU-1");
  EXPECT_EQ(SlotEnvironment(slot).at(0).second, "GPU-1");
}

}  // namespace
}  // namespace ham::agent
