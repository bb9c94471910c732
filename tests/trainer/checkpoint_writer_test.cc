#include "worker/trainer/checkpoint_writer.h"

#include <filesystem>
#include <string>
#include <vector>

#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/synchronization/notification.h"
#include "tests/support/temporary_directory.h"

namespace ham::trainer {
namespace {

using ::testing::HasSubstr;

Checkpoint AfterEpoch(int epoch) {
  Checkpoint checkpoint;
  checkpoint.info.epoch = epoch;
  checkpoint.info.iteration = 10 * epoch;
  checkpoint.model["w"] = at::ones({2});
  return checkpoint;
}

class CheckpointWriterTest : public ::testing::Test {
 protected:
  CheckpointWriter Make(CheckpointWriter::OnStored on_stored) {
    CheckpointInfo info;
    info.job_attempt = 4;
    return CheckpointWriter(parent_, info, /*epochs=*/3, keeper_, std::move(on_stored));
  }

  ham::testing::TemporaryDirectory directory_;
  const std::string parent_ = directory_ / "checkpoints";
  CheckpointKeeper keeper_{parent_, /*uploads=*/false, /*keep_every_epochs=*/0};
};

TEST_F(CheckpointWriterTest, TrainingGoesOnMeanwhileAndTheNextOneWaits) {
  absl::Notification trained_on;
  std::vector<int64_t> stored;
  CheckpointWriter writer = Make([&](const std::string& manifest, const CheckpointInfo& info) {
    trained_on.WaitForNotification();
    EXPECT_EQ(LoadCheckpoint(manifest)->info.job_attempt, 4);
    stored.push_back(info.iteration);
    return absl::OkStatus();
  });
  EXPECT_TRUE(writer.AwaitIdle(absl::ZeroDuration()));
  ASSERT_TRUE(writer.Store(AfterEpoch(1)).ok());  // returns although the first is not done
  EXPECT_FALSE(writer.AwaitIdle(absl::ZeroDuration()));
  trained_on.Notify();
  EXPECT_TRUE(writer.AwaitIdle(absl::Seconds(20)));
  ASSERT_TRUE(writer.Store(AfterEpoch(2)).ok());
  ASSERT_TRUE(writer.Finish().ok());
  ASSERT_TRUE(writer.Finish().ok());
  EXPECT_EQ(stored, (std::vector<int64_t>{10, 20}));
}

TEST_F(CheckpointWriterTest, AScoreWaitsForItsCheckpoint) {
  CheckpointWriter writer = Make(nullptr);
  ASSERT_TRUE(writer.Store(AfterEpoch(1)).ok());
  ASSERT_TRUE(writer.Score({1, 0.5, 0.25}).ok());
  EXPECT_THAT(ham::testing::ReadTestFile(parent_ + "/best.json"), HasSubstr("epoch-000001"));
}

TEST_F(CheckpointWriterTest, AnErrorComesAtTheNextCall) {
  ham::testing::WriteTestFile(parent_, "a file in the way");
  CheckpointWriter writer = Make(nullptr);
  ASSERT_TRUE(writer.Store(AfterEpoch(1)).ok());
  EXPECT_EQ(writer.Store(AfterEpoch(2)).code(), absl::StatusCode::kUnavailable);
  ASSERT_TRUE(writer.Store(AfterEpoch(2)).ok());
  EXPECT_EQ(writer.Score({2, 0.5, 0.25}).code(), absl::StatusCode::kUnavailable);
  ASSERT_TRUE(writer.Store(AfterEpoch(3)).ok());
  EXPECT_EQ(writer.Finish().code(), absl::StatusCode::kUnavailable);
}

TEST_F(CheckpointWriterTest, AnErrorOfTheListenerIsOne) {
  CheckpointWriter writer =
      Make([](const std::string&, const CheckpointInfo&) { return absl::CancelledError("nobody listens"); });
  ASSERT_TRUE(writer.Store(AfterEpoch(1)).ok());
  EXPECT_EQ(writer.Finish().code(), absl::StatusCode::kCancelled);
}

TEST_F(CheckpointWriterTest, ExceptionsOfTheWritingThreadReachTheCaller) {
  CheckpointWriter writer =
      Make([](const std::string&, const CheckpointInfo&) -> absl::Status { throw std::bad_alloc(); });
  ASSERT_TRUE(writer.Store(AfterEpoch(1)).ok());
  EXPECT_THROW((void)writer.Finish(), std::bad_alloc);
}

TEST_F(CheckpointWriterTest, ItsEndWaitsForTheOneBeingWritten) {
  ASSERT_TRUE(Make(nullptr).Store(AfterEpoch(1)).ok());
  EXPECT_TRUE(LoadCheckpoint(parent_ + "/epoch-000001/manifest.json").ok());
}

}  // namespace
}  // namespace ham::trainer
