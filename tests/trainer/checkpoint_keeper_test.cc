#include "worker/trainer/checkpoint_keeper.h"

#include <filesystem>
#include <set>
#include <string>
#include <thread>

#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"

namespace ham::trainer {
namespace {

class CheckpointKeeperTest : public ::testing::Test {
 protected:
  std::optional<std::string> Store(CheckpointKeeper& keeper, int epoch, bool last = false) {
    Checkpoint checkpoint;
    checkpoint.info.epoch = epoch;
    checkpoint.model["w"] = at::ones({2});
    auto manifest = keeper.Store(checkpoint, last);
    EXPECT_TRUE(manifest.ok()) << manifest.status();
    return manifest.value_or(std::nullopt);
  }

  ham::testing::TemporaryDirectory directory_;
};

TEST_F(CheckpointKeeperTest, KeepsTheNewestTwo) {
  CheckpointKeeper keeper(directory_.path(), /*uploads=*/false);
  const auto first = Store(keeper, 1), second = Store(keeper, 2), third = Store(keeper, 3);
  ASSERT_TRUE(first && second && third);
  EXPECT_FALSE(std::filesystem::exists(*first));
  EXPECT_TRUE(std::filesystem::exists(*second));
  EXPECT_TRUE(std::filesystem::exists(*third));
  EXPECT_TRUE(keeper.WaitForNewest(absl::ZeroDuration()).ok());
}

TEST_F(CheckpointKeeperTest, LeavesOutAllButTheLastWhileTwoAreBeingRead) {
  CheckpointKeeper keeper(directory_.path(), /*uploads=*/true);
  const auto first = Store(keeper, 1), second = Store(keeper, 2);
  EXPECT_FALSE(Store(keeper, 3).has_value());
  keeper.Acknowledge(*first, absl::OkStatus());
  const auto fourth = Store(keeper, 4);
  ASSERT_TRUE(fourth.has_value());
  EXPECT_FALSE(std::filesystem::exists(*first));
  EXPECT_TRUE(std::filesystem::exists(*second));
  EXPECT_TRUE(Store(keeper, 5, /*last=*/true).has_value());
  EXPECT_TRUE(std::filesystem::exists(*second));
}

TEST_F(CheckpointKeeperTest, WaitsForTheNewestAndReportsItsUpload) {
  CheckpointKeeper keeper(directory_.path(), /*uploads=*/true);
  EXPECT_TRUE(keeper.WaitForNewest(absl::ZeroDuration()).ok());
  const auto first = Store(keeper, 1), second = Store(keeper, 2);
  keeper.Acknowledge(*first, absl::OkStatus());
  keeper.Acknowledge("unknown", absl::OkStatus());
  EXPECT_EQ(keeper.WaitForNewest(absl::Milliseconds(1)).code(), absl::StatusCode::kDeadlineExceeded);
  std::thread agent([&] { keeper.Acknowledge(*second, absl::ResourceExhaustedError("full")); });
  EXPECT_EQ(keeper.WaitForNewest(absl::Seconds(20)).code(), absl::StatusCode::kResourceExhausted);
  agent.join();
}

TEST_F(CheckpointKeeperTest, CountsWhatAnEarlierAttemptLeft) {
  {
    CheckpointKeeper before(directory_.path(), /*uploads=*/false);
    Store(before, 999'999);
    Store(before, 1'000'000);
  }
  CheckpointKeeper keeper(directory_.path(), /*uploads=*/false);
  const auto again = Store(keeper, 1'000'000), next = Store(keeper, 1'000'001);
  ASSERT_TRUE(again && next);
  EXPECT_FALSE(std::filesystem::exists(directory_ / "epoch-999999"));
  EXPECT_TRUE(std::filesystem::exists(*again));
  EXPECT_TRUE(std::filesystem::exists(*next));
}

TEST_F(CheckpointKeeperTest, RemovesWhatAnInterruptedWriteLeftAndNothingElse) {
  for (const char* name : {"epoch-000003.new-aB3xY9/f", "epoch-000004.new-aB3xY9.old/f", "epoch-000004.mine/f",
                           "epoch-/f", "mine.new-aB3xY9/f"}) {
    ham::testing::WriteTestFile(directory_ / name, "");
  }
  CheckpointKeeper keeper(directory_.path(), /*uploads=*/false);
  for (int epoch = 5; epoch <= 7; ++epoch) Store(keeper, epoch);
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory_.path())) {
    names.insert(entry.path().filename().string());
  }
  EXPECT_EQ(names,
            (std::set<std::string>{"epoch-", "epoch-000004.mine", "epoch-000006", "epoch-000007", "mine.new-aB3xY9"}));
}

TEST_F(CheckpointKeeperTest, ReportsADirectoryThatCannotBeWritten) {
  CheckpointKeeper keeper(directory_ / "missing", /*uploads=*/false);
  EXPECT_FALSE(keeper.Store({}, false).ok());
}

}  // namespace
}  // namespace ham::trainer
