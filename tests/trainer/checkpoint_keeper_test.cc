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
  // Of the end of `epoch`, or made in the one after at `iteration`.
  std::optional<std::string> Store(CheckpointKeeper& keeper, int epoch, bool last = false, int64_t iteration = 0) {
    Checkpoint checkpoint;
    checkpoint.info.epoch = epoch;
    checkpoint.info.iteration = iteration;
    checkpoint.within_epoch = iteration > 0;
    checkpoint.model["w"] = at::ones({2});
    auto manifest = keeper.Store(checkpoint, last);
    EXPECT_TRUE(manifest.ok()) << manifest.status();
    return manifest.value_or(std::nullopt);
  }

  void StoreAndScore(CheckpointKeeper& keeper, int epoch, double average, double worst) {
    Store(keeper, epoch);
    const absl::Status status = keeper.Score({epoch, average, worst});
    EXPECT_TRUE(status.ok()) << status;
  }

  std::set<std::string> Names() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(directory_.path())) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }

  nlohmann::json Best() const { return nlohmann::json::parse(ham::testing::ReadTestFile(directory_ / "best.json")); }

  ham::testing::TemporaryDirectory directory_;
};

using Strings = std::set<std::string>;

TEST_F(CheckpointKeeperTest, KeepsTheNewestTwo) {
  CheckpointKeeper keeper(directory_.path(), /*uploads=*/false, /*keep_every_epochs=*/0);
  const auto first = Store(keeper, 1), second = Store(keeper, 2), third = Store(keeper, 3);
  ASSERT_TRUE(first && second && third);
  EXPECT_FALSE(std::filesystem::exists(*first));
  EXPECT_TRUE(std::filesystem::exists(*second));
  EXPECT_TRUE(std::filesystem::exists(*third));
  EXPECT_TRUE(keeper.WaitForNewest(absl::ZeroDuration()).ok());
}

TEST_F(CheckpointKeeperTest, LeavesOutAllButTheLastWhileTwoAreBeingRead) {
  CheckpointKeeper keeper(directory_.path(), /*uploads=*/true, /*keep_every_epochs=*/0);
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
  CheckpointKeeper keeper(directory_.path(), /*uploads=*/true, /*keep_every_epochs=*/0);
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
    CheckpointKeeper before(directory_.path(), /*uploads=*/false, /*keep_every_epochs=*/0);
    Store(before, 999'999);
    Store(before, 1'000'000);
  }
  CheckpointKeeper keeper(directory_.path(), /*uploads=*/false, /*keep_every_epochs=*/0);
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
  CheckpointKeeper keeper(directory_.path(), /*uploads=*/false, /*keep_every_epochs=*/0);
  for (int epoch = 5; epoch <= 7; ++epoch) Store(keeper, epoch);
  EXPECT_EQ(Names(), (Strings{"epoch-", "epoch-000004.mine", "epoch-000006", "epoch-000007", "mine.new-aB3xY9"}));
}

TEST_F(CheckpointKeeperTest, KeepsTheBestByEachScoreAndNamesThem) {
  CheckpointKeeper keeper(directory_.path(), /*uploads=*/false, /*keep_every_epochs=*/0);
  StoreAndScore(keeper, 1, 0.5, 0.1);
  StoreAndScore(keeper, 2, 0.4, 0.3);
  StoreAndScore(keeper, 3, 0.5, 0.3);  // no better: the earlier ones stay the best
  StoreAndScore(keeper, 4, 0.3, 0.2);
  EXPECT_EQ(Names(), (Strings{"best.json", "epoch-000001", "epoch-000002", "epoch-000003", "epoch-000004"}));
  EXPECT_EQ(Best()["robust_accuracy"], (nlohmann::json{{"checkpoint", "epoch-000001"}, {"value", 0.5}}));
  EXPECT_EQ(Best()["worst_class_robust_accuracy"], (nlohmann::json{{"checkpoint", "epoch-000002"}, {"value", 0.3}}));
  StoreAndScore(keeper, 5, 0.6, 0.3);  // takes the place of the first
  EXPECT_EQ(Names(), (Strings{"best.json", "epoch-000002", "epoch-000004", "epoch-000005"}));
}

TEST_F(CheckpointKeeperTest, ScoresOfWhatIsNotOnDiskCountNothing) {
  CheckpointKeeper keeper(directory_.path(), /*uploads=*/false, /*keep_every_epochs=*/0);
  EXPECT_TRUE(keeper.Score({7, 0.9, 0.9}).ok());
  EXPECT_EQ(Names(), Strings{});
}

TEST_F(CheckpointKeeperTest, KeepsEveryNthEpoch) {
  CheckpointKeeper keeper(directory_.path(), /*uploads=*/false, /*keep_every_epochs=*/2);
  for (int epoch = 1; epoch <= 6; ++epoch) {
    Store(keeper, epoch);
    Store(keeper, epoch, false, epoch * 10 + 5);
  }
  EXPECT_EQ(Names(), (Strings{"epoch-000002", "epoch-000004", "epoch-000006", "epoch-000006-iteration-00000065"}));
}

TEST_F(CheckpointKeeperTest, ASaveWithinTheNextEpochLeavesTheBestAlone) {
  CheckpointKeeper keeper(directory_.path(), /*uploads=*/false, /*keep_every_epochs=*/0);
  StoreAndScore(keeper, 1, 0.5, 0.1);
  for (const int64_t iteration : {11, 12, 13}) Store(keeper, 1, false, iteration);
  EXPECT_EQ(Names(), (Strings{"best.json", "epoch-000001", "epoch-000001-iteration-00000012",
                              "epoch-000001-iteration-00000013"}));
}

TEST_F(CheckpointKeeperTest, ARestartKnowsTheBestAndTheNthEpochs) {
  {
    CheckpointKeeper before(directory_.path(), /*uploads=*/false, /*keep_every_epochs=*/3);
    StoreAndScore(before, 2, 0.5, 0.1);
    StoreAndScore(before, 3, 0.2, 0.05);
    Store(before, 3, false, 31);
  }
  CheckpointKeeper keeper(directory_.path(), /*uploads=*/false, /*keep_every_epochs=*/3);
  StoreAndScore(keeper, 4, 0.4, 0.05);
  StoreAndScore(keeper, 5, 0.4, 0.05);
  EXPECT_EQ(Names(), (Strings{"best.json", "epoch-000002", "epoch-000003", "epoch-000004", "epoch-000005"}));
  EXPECT_EQ(Best()["robust_accuracy"]["checkpoint"], "epoch-000002");
  StoreAndScore(keeper, 2, 0.3, 0.2);  // done anew: it is now what it is now
  EXPECT_EQ(Best()["robust_accuracy"]["value"], 0.3);
}

TEST_F(CheckpointKeeperTest, AFileOfBestOnesThatIsNotItsOwnCountsAsNone) {
  for (const char* text : {"{", "[]", R"({"robust_accuracy": 1})", R"({"robust_accuracy": {"checkpoint": 1}})",
                           R"({"robust_accuracy": {"checkpoint": "epoch-000001", "value": "1"}})",
                           R"({"robust_accuracy": {"checkpoint": "epoch-000009", "value": 1}})"}) {
    ham::testing::WriteTestFile(directory_ / "best.json", text);
    CheckpointKeeper keeper(directory_.path(), /*uploads=*/false, /*keep_every_epochs=*/0);
    StoreAndScore(keeper, 1, 0.5, 0.1);
    EXPECT_EQ(Best()["robust_accuracy"]["value"], 0.5) << text;
  }
}

TEST_F(CheckpointKeeperTest, ReportsBestOnesThatCannotBeNoted) {
  CheckpointKeeper keeper(directory_.path(), /*uploads=*/false, /*keep_every_epochs=*/0);
  Store(keeper, 1);
  std::filesystem::create_directories(directory_ / "best.json/in_the_way");
  const absl::Status status = keeper.Score({1, 0.5, 0.1});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
}

TEST_F(CheckpointKeeperTest, ReportsADirectoryThatCannotBeWritten) {
  CheckpointKeeper keeper(directory_ / "missing", /*uploads=*/false, /*keep_every_epochs=*/0);
  EXPECT_FALSE(keeper.Store({}, false).ok());
}

}  // namespace
}  // namespace ham::trainer
