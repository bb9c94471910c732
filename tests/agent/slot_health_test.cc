#include "worker/agent/slot_health.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace ham::agent {
namespace {

using ham::v1::SlotProblem;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr uint64_t kMebibyte = uint64_t{1} << 20;
const GpuState kFree = {.memory_used_bytes = 300 * kMebibyte};
const GpuState kUsed = {.memory_used_bytes = 700 * kMebibyte,
                        .processes = {{.pid = 7, .memory_bytes = 600 * kMebibyte, .user = "ann"}, {.pid = 8}}};

class GpuHealthTest : public ::testing::Test {
 protected:
  // A second after the look before: the kind of problem, 0 for none.
  int Look(const absl::StatusOr<GpuState>& state, bool occupied = false) { return LookAt(&health_, state, occupied); }
  int LookAt(GpuHealth* health, const absl::StatusOr<GpuState>& state, bool occupied) {
    now_ += absl::Seconds(1);
    const SlotProblem problem = health->Judge(state, occupied, now_).value_or(SlotProblem());
    message_ = problem.message();
    EXPECT_EQ(problem.slot(), problem.kind() == 0 ? 0 : 3);
    return problem.kind();
  }
  static ham::v1::Slot Slot() {
    ham::v1::Slot slot;
    slot.set_index(3);
    slot.set_device_name("GPU");
    slot.set_device_id("GPU-x");
    return slot;
  }

  absl::Duration now_;
  GpuHealth health_ = GpuHealth(Slot(), false);
  std::string message_;
};

TEST_F(GpuHealthTest, AFreeOneHasNoProblem) {
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Look(kFree), 0);
}

TEST_F(GpuHealthTest, WhatOthersDoAtTheStartIsOneAtOnce) { EXPECT_EQ(Look(kUsed), SlotProblem::BUSY_FOREIGN); }

TEST_F(GpuHealthTest, ShortUsesByOthersAreOneUntilThereIsNoneForTenSeconds) {
  Look(kUsed);
  for (int i = 1; i < 10; ++i) EXPECT_EQ(Look(kFree), SlotProblem::BUSY_FOREIGN) << i;
  EXPECT_EQ(Look(kUsed), SlotProblem::BUSY_FOREIGN);
  for (int i = 1; i < 10; ++i) EXPECT_EQ(Look(kFree), SlotProblem::BUSY_FOREIGN) << i;
  EXPECT_EQ(Look(kFree), 0);
}

TEST_F(GpuHealthTest, WhatOthersDoIsOneFromTheSecondLookOn) {
  Look(kFree);
  EXPECT_EQ(Look(kUsed), 0) << "it may end at once";
  EXPECT_EQ(Look(kUsed), SlotProblem::BUSY_FOREIGN);
  EXPECT_EQ(message_,
            "GPU (GPU-x): others use it, and 700 MiB of its memory: process 7 of ann with 600 MiB, process 8: "
            "end that, or give ham-worker --allow-shared-gpus.");
}

TEST_F(GpuHealthTest, MemoryThatNobodyIsSeenToHoldCountsFromAGibibyteOn) {
  Look(kFree);
  for (const auto& [mebibytes, kind] : {std::pair(1023, 0), std::pair(1024, int{SlotProblem::BUSY_FOREIGN})}) {
    const GpuState state = {.memory_used_bytes = static_cast<uint64_t>(mebibytes) * kMebibyte};
    Look(state);
    EXPECT_EQ(Look(state), kind) << mebibytes;
  }
  EXPECT_THAT(message_, HasSubstr("somebody else uses 1024 MiB of its memory"));
}

TEST_F(GpuHealthTest, ManyProcessesAreCounted) {
  GpuState state = kUsed;
  state.processes.resize(9);
  Look(state);
  Look(state);
  EXPECT_THAT(message_, HasSubstr("6 more"));
}

TEST_F(GpuHealthTest, OfARankOfHamIsNoneAndItsMemoryHasTenSecondsToComeBack) {
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Look(kUsed, true), 0);
  for (int i = 1; i <= 10; ++i) EXPECT_EQ(Look(kUsed), 0) << i;
  EXPECT_EQ(Look(kUsed), SlotProblem::BUSY_FOREIGN);
  EXPECT_EQ(Look(kUsed, true), 0) << "its rank is there all the same";
}

TEST_F(GpuHealthTest, OneThatIsSharedMayBeUsed) {
  GpuHealth shared(Slot(), true);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(LookAt(&shared, kUsed, false), 0);
}

TEST_F(GpuHealthTest, OneThatIsLostIsLostUntilItIsFound) {
  EXPECT_EQ(Look(absl::NotFoundError("gone"), true), SlotProblem::GPU_LOST);
  EXPECT_EQ(Look(absl::UnavailableError("no answer")), SlotProblem::GPU_LOST) << "that says nothing new";
  EXPECT_EQ(Look(kFree), 0);
  EXPECT_EQ(Look(absl::UnavailableError("no answer")), 0);
}

TEST_F(GpuHealthTest, AnErrorOfTheHardwareStays) {
  EXPECT_TRUE(health_.NoteXid(79, absl::UnixEpoch() + absl::Hours(1)));
  EXPECT_FALSE(health_.NoteXid(79, absl::UnixEpoch())) << "that is known";
  EXPECT_EQ(Look(kFree), SlotProblem::GPU_ERROR);
  EXPECT_THAT(message_,
              StartsWith("GPU (GPU-x): Xid 79 (fallen off the bus) at 1970-01-01T01:00:00Z: stop ham-worker, reset"));
  EXPECT_FALSE(health_.NoteXid(48, absl::UnixEpoch()));
  EXPECT_EQ(Look(kUsed, true), SlotProblem::GPU_ERROR);
  EXPECT_THAT(message_, HasSubstr("Xid 79")) << "the first one is the cause";
  EXPECT_EQ(Look(absl::NotFoundError("gone")), SlotProblem::GPU_LOST) << "that is graver";
}

TEST_F(GpuHealthTest, WhatAProgramCanCauseOrTheGpuMendsCondemnsNone) {
  for (const uint64_t xid : {13, 31, 43, 45, 63, 68, 94, 109, 137, 154})
    EXPECT_FALSE(health_.NoteXid(xid, absl::UnixEpoch())) << xid;
  EXPECT_EQ(Look(kFree), 0);
}

TEST_F(GpuHealthTest, MemoryRowsThatWaitForAResetAreAnErrorUntilThen) {
  GpuState state = kFree;
  state.needs_reset = true;
  EXPECT_EQ(Look(state, true), SlotProblem::GPU_ERROR);
  EXPECT_THAT(message_, HasSubstr("are to be remapped"));
  state.defective = true;
  EXPECT_EQ(Look(state), SlotProblem::GPU_ERROR);
  EXPECT_THAT(message_, HasSubstr("could not be remapped"));
  EXPECT_EQ(Look(kFree), 0);
}

TEST(DiskHealth, NeedsSomeRoomAndThenSomeMore) {
  DiskHealth disk("/state");
  EXPECT_FALSE(disk.Judge(64 * kMebibyte));
  const std::optional<SlotProblem> full = disk.Judge(64 * kMebibyte - 1);
  ASSERT_TRUE(full);
  EXPECT_EQ(full->kind(), SlotProblem::DISK_FULL);
  EXPECT_EQ(full->message(), "/state has 63 MiB left, and ham-worker needs 96 MiB: make room.");
  EXPECT_TRUE(disk.Judge(96 * kMebibyte - 1));
  EXPECT_FALSE(disk.Judge(96 * kMebibyte));
  EXPECT_FALSE(disk.Judge(64 * kMebibyte));
}

TEST(GravestProblems, AreOneASlot) {
  std::vector<ham::v1::Slot> slots(4);
  for (int i = 0; i < 4; ++i) slots[static_cast<size_t>(i)].set_index(i);
  const auto problem = [](int slot, SlotProblem::Kind kind) {
    SlotProblem one;
    one.set_slot(slot);
    one.set_kind(kind);
    return one;
  };
  const std::vector<SlotProblem> of_gpus = {problem(1, SlotProblem::BUSY_FOREIGN), problem(2, SlotProblem::GPU_LOST),
                                            problem(3, SlotProblem::GPU_ERROR)};
  const auto text = [&](const std::optional<SlotProblem>& of_disk) {
    std::string all;
    for (const SlotProblem& one : GravestProblems(slots, of_gpus, of_disk)) {
      absl::StrAppend(&all, one.slot(), " ", SlotProblem::Kind_Name(one.kind()), ", ");
    }
    return all;
  };
  EXPECT_EQ(text(std::nullopt), "1 BUSY_FOREIGN, 2 GPU_LOST, 3 GPU_ERROR, ");
  EXPECT_EQ(text(problem(0, SlotProblem::DISK_FULL)), "0 DISK_FULL, 1 DISK_FULL, 2 GPU_LOST, 3 GPU_ERROR, ");
}

}  // namespace
}  // namespace ham::agent
