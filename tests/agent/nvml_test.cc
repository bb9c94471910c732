#include "worker/agent/nvml.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/agent/scripted_nvml.h"
#include "worker/agent/gpu_monitor.h"
#include "worker/agent/slots.h"

namespace ham::agent {
namespace {

using ham::testing::NvmlScript;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

NvmlScript* Script() {
  static NvmlScript* const script =
      reinterpret_cast<NvmlScript* (*)()>(::dlsym(::dlopen(HAM_SCRIPTED_NVML, RTLD_NOW), "ham_nvml_script"))();
  return script;
}

class GpuTest : public ::testing::Test {
 protected:
  ~GpuTest() override {
    Script()->failing = "";
    Script()->processes = 0;
    Script()->remapping = false;
    Script()->xid = 0;
    Hang(false);
  }
  static void Fail(const char* call, int code) {
    Script()->code = code;
    Script()->failing = call;
  }
  static void Hang(bool on) {
    Script()->hangs = on;
    Script()->hangs.notify_all();
  }
};

TEST_F(GpuTest, AreListedWithAllThatIsKnown) {
  const auto gpus = ListGpus(HAM_SCRIPTED_NVML);
  ASSERT_TRUE(gpus.ok()) << gpus.status();
  ASSERT_EQ(gpus->size(), 3);
  const ham::v1::Slot& second = gpus->at(1);
  EXPECT_EQ(second.index(), 1);
  EXPECT_EQ(second.device(), "cuda");
  EXPECT_EQ(second.device_id(), "GPU-1");
  EXPECT_EQ(second.device_name(), "Scripted GPU");
  EXPECT_EQ(second.memory_bytes(), int64_t{80} << 30);
  EXPECT_EQ(second.gpu().pci_bus_id(), "00000000:01:00.0");
  EXPECT_EQ(second.gpu().compute_capability(), "9.0");
  EXPECT_EQ(second.gpu().driver_version(), "580.1");
  EXPECT_THAT(second.gpu().nvlink_slots(), ElementsAre(0));
  EXPECT_THAT(gpus->at(0).gpu().nvlink_slots(), ElementsAre(1));
  EXPECT_THAT(gpus->at(2).gpu().nvlink_slots(), IsEmpty());
}

TEST_F(GpuTest, LinksAreNumberedAsSlotsAre) {
  const auto gpus = ListGpus(HAM_SCRIPTED_NVML);
  ASSERT_TRUE(gpus.ok()) << gpus.status();
  const std::vector<ham::v1::Slot> slots = MakeSlots(2, *gpus);
  ASSERT_EQ(slots.size(), 5);
  EXPECT_EQ(slots[3].index(), 3);
  EXPECT_EQ(slots[3].device_id(), "GPU-1");
  EXPECT_THAT(slots[3].gpu().nvlink_slots(), ElementsAre(2));
  EXPECT_EQ(MakeSlots(-1, *gpus).size(), 3) << "no CPU slots beside GPUs unless asked for";
}

TEST_F(GpuTest, AreThoseThatABatchSystemGave) {
  const auto gpus = ListGpus(HAM_SCRIPTED_NVML);
  ASSERT_TRUE(gpus.ok()) << gpus.status();
  const auto visible = [&](const char* value) {
    std::vector<std::string> ids;
    for (const ham::v1::Slot& gpu : VisibleGpus(*gpus, value)) {
      EXPECT_EQ(gpu.index(), static_cast<int>(ids.size()));
      ids.push_back(gpu.device_id());
    }
    return ids;
  };
  EXPECT_THAT(visible(nullptr), SizeIs(3));
  EXPECT_THAT(visible("0,1,2"), ElementsAre("GPU-0", "GPU-1", "GPU-2"));
  EXPECT_THAT(visible("2, 0"), ElementsAre("GPU-2", "GPU-0"));
  EXPECT_THAT(visible("GPU-1,GPU-2"), ElementsAre("GPU-1", "GPU-2"));
  EXPECT_THAT(visible("1,1"), ElementsAre("GPU-1"));
  EXPECT_THAT(visible("0,-1,2"), ElementsAre("GPU-0"));
  EXPECT_THAT(visible("0,3,1"), ElementsAre("GPU-0"));
  for (const char* none : {"", "-1", "NoDevFiles", "3", "MIG-GPU-1/1/0", ",0"}) {
    EXPECT_THAT(visible(none), IsEmpty()) << none;
  }
}

TEST_F(GpuTest, LinksToThoseThatAreNotGivenAreNone) {
  const auto gpus = ListGpus(HAM_SCRIPTED_NVML);
  ASSERT_TRUE(gpus.ok()) << gpus.status();
  const std::vector<ham::v1::Slot> both = VisibleGpus(*gpus, "2,1,0");
  ASSERT_EQ(both.size(), 3);
  EXPECT_THAT(both[1].gpu().nvlink_slots(), ElementsAre(2));
  EXPECT_THAT(both[2].gpu().nvlink_slots(), ElementsAre(1));
  const std::vector<ham::v1::Slot> one = VisibleGpus(*gpus, "1");
  ASSERT_EQ(one.size(), 1);
  EXPECT_THAT(one[0].gpu().nvlink_slots(), IsEmpty());
}

TEST_F(GpuTest, AreRead) {
  const auto nvml = Nvml::Open(HAM_SCRIPTED_NVML);
  ASSERT_TRUE(nvml.ok()) << nvml.status();
  const auto reading = (*nvml)->Read("GPU-1");
  ASSERT_TRUE(reading.ok()) << reading.status();
  EXPECT_EQ(reading->memory_used_bytes(), int64_t{512} << 20);
  EXPECT_EQ(reading->utilization(), 0.51);
  EXPECT_EQ(reading->power_watts(), 400.501);
  EXPECT_EQ(reading->temperature_celsius(), 61);
  EXPECT_EQ(reading->ecc_errors(), 8);
  EXPECT_FALSE(reading->throttle().hardware_thermal());
  EXPECT_TRUE(reading->throttle().software_thermal());
  EXPECT_TRUE(reading->throttle().power_brake());
  EXPECT_FALSE(reading->throttle().power_cap());
  const auto first = (*nvml)->Read("GPU-0");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(first->throttle().hardware_thermal());
  EXPECT_TRUE(first->throttle().power_cap());
  EXPECT_FALSE(first->throttle().power_brake());
}

// A driver that lacks newer functions, or a GPU that lacks a sensor: that is left out, and no error.
TEST_F(GpuTest, WhatIsNotToldIsLeftOut) {
  const auto gpus = ListGpus(HAM_SCRIPTED_NVML_PLAIN);
  ASSERT_TRUE(gpus.ok()) << gpus.status();
  ASSERT_EQ(gpus->size(), 3);
  EXPECT_EQ(gpus->at(1).device_id(), "GPU-1");
  EXPECT_EQ(gpus->at(1).gpu().ByteSizeLong(), 0);
  const auto nvml = Nvml::Open(HAM_SCRIPTED_NVML_PLAIN);
  ASSERT_TRUE(nvml.ok()) << nvml.status();
  const auto reading = (*nvml)->Read("GPU-0");
  ASSERT_TRUE(reading.ok()) << reading.status();
  EXPECT_TRUE(reading->has_memory_used_bytes());
  EXPECT_FALSE(reading->has_utilization() || reading->has_power_watts() || reading->has_temperature_celsius() ||
               reading->has_ecc_errors() || reading->has_throttle());
}

TEST_F(GpuTest, AreLookedAt) {
  const auto nvml = Nvml::Open(HAM_SCRIPTED_NVML);
  ASSERT_TRUE(nvml.ok()) << nvml.status();
  Script()->processes = 100;  // more than fit at the first try
  Script()->remapping = true;
  const auto state = (*nvml)->Look("GPU-1");
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->memory_used_bytes, uint64_t{256} << 20) << "without the driver's half";
  EXPECT_TRUE(state->needs_reset);
  ASSERT_THAT(state->processes, SizeIs(100));
  EXPECT_EQ(state->processes[0].pid, ::getpid());
  EXPECT_EQ(state->processes[0].memory_bytes, uint64_t{512} << 20);
  EXPECT_EQ(state->processes[1].memory_bytes, std::nullopt);
  const auto other = (*nvml)->Look("GPU-0");
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_FALSE(other->needs_reset);
  EXPECT_THAT(other->processes, IsEmpty());
}

TEST_F(GpuTest, OneThatIsLostIsToldFromOneThatFails) {
  const auto nvml = Nvml::Open(HAM_SCRIPTED_NVML);
  ASSERT_TRUE(nvml.ok()) << nvml.status();
  Fail("handle", 15);  // so with all GPUs, if any is lost
  EXPECT_TRUE(absl::IsUnavailable((*nvml)->Look("GPU-1").status()));
  Fail("handle", 6);
  EXPECT_TRUE(absl::IsNotFound((*nvml)->Look("GPU-1").status()));
  Fail("", 0);
  EXPECT_TRUE((*nvml)->Look("GPU-1").ok());
  Fail("handle", 15);
  EXPECT_TRUE((*nvml)->Look("GPU-1").ok()) << "it was found before";
  Fail("memory", 15);
  EXPECT_TRUE(absl::IsNotFound((*nvml)->Look("GPU-1").status()));
  Fail("memory", 999);
  EXPECT_TRUE(absl::IsUnavailable((*nvml)->Look("GPU-1").status()));
}

TEST_F(GpuTest, TellOfTheirErrorsOnce) {
  const auto nvml = Nvml::Open(HAM_SCRIPTED_NVML);
  ASSERT_TRUE(nvml.ok()) << nvml.status();
  ASSERT_TRUE((*nvml)->WatchXids({"GPU-0", "GPU-1"}));
  EXPECT_EQ((*nvml)->NextXid(absl::ZeroDuration()), std::nullopt);
  Script()->xid = 79;
  const std::optional<GpuXid> error = (*nvml)->NextXid(absl::ZeroDuration());
  ASSERT_TRUE(error);
  EXPECT_EQ(error->uuid, "GPU-1");
  EXPECT_EQ(error->xid, 79);
  EXPECT_EQ((*nvml)->NextXid(absl::ZeroDuration()), std::nullopt);
}

TEST_F(GpuTest, AnOldDriverTellsOfNoErrors) {
  const auto nvml = Nvml::Open(HAM_SCRIPTED_NVML_PLAIN);
  ASSERT_TRUE(nvml.ok()) << nvml.status();
  EXPECT_FALSE((*nvml)->WatchXids({"GPU-0"}));
  const auto state = (*nvml)->Look("GPU-1");
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->memory_used_bytes, uint64_t{512} << 20);
  EXPECT_FALSE(state->needs_reset);
}

TEST_F(GpuTest, NoLibraryOrNoDriverMeansNone) {
  auto gpus = ListGpus("/nonexistent/libnvidia-ml.so.1");
  ASSERT_TRUE(gpus.ok()) << gpus.status();
  EXPECT_TRUE(gpus->empty());
  Fail("init", 9);
  gpus = ListGpus(HAM_SCRIPTED_NVML);
  ASSERT_TRUE(gpus.ok()) << gpus.status();
  EXPECT_TRUE(gpus->empty());
}

TEST_F(GpuTest, AFailureSaysWhatToDo) {
  for (const char* call : {"init", "count", "handle", "name", "uuid", "memory"}) {
    Fail(call, 15);
    const absl::Status status = ListGpus(HAM_SCRIPTED_NVML).status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << call << " " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("15"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("--no-gpu"));
  }
}

TEST_F(GpuTest, AnOldLibraryIsNamed) {
  const absl::Status status = ListGpus(HAM_SCRIPTED_NVML_OLD).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("nvmlDeviceGetUUID"));
}

class GpuMonitorTest : public GpuTest {
 protected:
  GpuMonitorTest() {
    slots_ = MakeSlots(1, ListGpus(HAM_SCRIPTED_NVML).value_or(std::vector<ham::v1::Slot>()));
    options_.library = HAM_SCRIPTED_NVML;
    options_.period = absl::Milliseconds(1);
  }
  // Waits at most 20 s until so many GPUs answer.
  static bool AwaitReadings(const GpuMonitor& monitor, size_t count) {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (monitor.Newest().size() != count) {
      if (absl::Now() > deadline) return false;
    }
    return true;
  }

  // Likewise until it has looked twice and more.
  static bool AwaitLooks(const GpuMonitor& monitor) {
    for (int i = 0; i < 2; ++i) {
      Fail("memory", 999);
      if (!AwaitReadings(monitor, 0)) return false;
      Fail("", 0);
      if (!AwaitReadings(monitor, 3)) return false;
    }
    return true;
  }
  // Likewise until a GPU has this problem, or none has any.
  static bool AwaitProblem(const GpuMonitor& monitor, std::optional<ham::v1::SlotProblem::Kind> kind) {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    const auto there = [&] {
      const std::vector<ham::v1::SlotProblem> problems = monitor.Problems();
      return kind ? !problems.empty() && problems[0].kind() == *kind : problems.empty();
    };
    while (!there()) {
      if (absl::Now() > deadline) return false;
    }
    return true;
  }

  std::vector<ham::v1::Slot> slots_;
  GpuMonitorOptions options_;
};

TEST_F(GpuMonitorTest, ReadsEachGpuOfTheWorker) {
  const GpuMonitor monitor(slots_, options_);
  ASSERT_TRUE(AwaitReadings(monitor, 3));
  EXPECT_EQ(monitor.Newest()[1].slot(), 2);
  EXPECT_EQ(monitor.Newest()[1].memory_used_bytes(), int64_t{512} << 20);
}

TEST_F(GpuMonitorTest, OneThatFailsIsLeftOutUntilItAnswersAgain) {
  const GpuMonitor monitor(slots_, options_);
  ASSERT_TRUE(AwaitReadings(monitor, 3));
  Fail("memory", 15);
  EXPECT_TRUE(AwaitReadings(monitor, 0));
  Fail("", 0);
  EXPECT_TRUE(AwaitReadings(monitor, 3));
}

TEST_F(GpuMonitorTest, NvmlThatHangsIsSilenceAndHoldsUpNothing) {
  options_.stale_after = absl::Milliseconds(20);
  {
    const GpuMonitor monitor(slots_, options_);
    ASSERT_TRUE(AwaitReadings(monitor, 3));
    Hang(true);
    EXPECT_TRUE(AwaitReadings(monitor, 0));
  }  // ends all the same
  Hang(false);
}

TEST_F(GpuMonitorTest, SaysWhichCannotBeUsedAndWhy) {
  const GpuMonitor monitor(slots_, options_);
  ASSERT_TRUE(AwaitReadings(monitor, 3));
  EXPECT_THAT(monitor.Problems(), IsEmpty());
  Script()->processes = 1;
  ASSERT_TRUE(AwaitProblem(monitor, ham::v1::SlotProblem::BUSY_FOREIGN));
  const ham::v1::SlotProblem problem = monitor.Problems()[0];
  EXPECT_EQ(problem.slot(), 2);
  EXPECT_THAT(problem.message(), HasSubstr(absl::StrCat("Scripted GPU (GPU-1): others use it, and 256 MiB of its ",
                                                        "memory: process ", ::getpid(), " of ")));
  Fail("memory", 15);
  EXPECT_TRUE(AwaitProblem(monitor, ham::v1::SlotProblem::GPU_LOST));
}

TEST_F(GpuMonitorTest, AnErrorIsTakenIfItCondemnsTheGpu) {
  const GpuMonitor monitor(slots_, options_);
  ASSERT_TRUE(AwaitReadings(monitor, 3));
  Script()->xid = 31;
  ASSERT_TRUE(AwaitLooks(monitor));
  ASSERT_EQ(Script()->xid, 0);
  EXPECT_THAT(monitor.Problems(), IsEmpty());
  Script()->xid = 79;
  EXPECT_TRUE(AwaitProblem(monitor, ham::v1::SlotProblem::GPU_ERROR));
}

TEST_F(GpuMonitorTest, WhatItsOwnRankUsesIsNoProblem) {
  GpuMonitor monitor(slots_, options_);
  monitor.SetOccupied({2});
  ASSERT_TRUE(AwaitLooks(monitor));
  Script()->processes = 1;
  ASSERT_TRUE(AwaitLooks(monitor));
  EXPECT_THAT(monitor.Problems(), IsEmpty());
}

TEST_F(GpuMonitorTest, WithoutGpusOrWithoutNvmlThereIsNothing) {
  EXPECT_THAT(GpuMonitor(MakeSlots(2, {}), options_).Newest(), IsEmpty());
  Fail("init", 15);
  EXPECT_THAT(GpuMonitor(slots_, options_).Newest(), IsEmpty());
}

}  // namespace
}  // namespace ham::agent
