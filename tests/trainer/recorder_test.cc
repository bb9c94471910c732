#include "worker/trainer/recorder.h"

#include <memory>
#include <string>

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/support/host_accelerator.h"
#include "tests/support/toy_images.h"
#include "worker/trainer/device.h"
#include "worker/trainer/network_passes.h"

namespace ham::trainer {
namespace {

class RecorderTest : public ::testing::Test {
 protected:
  // Runs the work `name`, to be recorded once it came `times` times.
  enum Way { kEager, kRecorded, kReplayed };
  void Expect(const std::string& name, Way way, int times = 1) {
    const int runs = runs_, recorded = gpu_.recorded(), replayed = gpu_.replayed();
    recorder_.Run(name, times, [this] { ++runs_; });
    EXPECT_GT(runs_, runs) << name;
    EXPECT_EQ(gpu_.recorded() - recorded, way == kRecorded) << name;
    EXPECT_EQ(gpu_.replayed() - replayed, way != kEager) << name;
  }

  ham::testing::HostAccelerator gpu_;
  Recorder recorder_{&gpu_};
  int runs_ = 0;
};

TEST_F(RecorderTest, RecordsAfterSomeTimesAndReplaysFromThenOn) {
  Expect("a", kEager);
  Expect("b", kEager, 2);
  Expect("a", kRecorded);
  Expect("a", kReplayed);
  Expect("b", kEager, 2);
  Expect("b", kRecorded, 2);
  Expect("a", kReplayed);
}

TEST_F(RecorderTest, ForgetsAllWhenMemoryMoves) {
  Expect("a", kEager);
  Expect("a", kRecorded);
  recorder_.Forget();
  Expect("a", kEager);
}

TEST_F(RecorderTest, ARecordingTooManyForgetsTheOneNotRunForLongest) {
  const auto record = [&](const std::string& name) {
    Expect(name, kEager);
    Expect(name, kRecorded);
  };
  record("old");
  record("used");
  for (int i = 0; i < 62; ++i) record(absl::StrCat(i));
  for (int i = 0; i < 99; ++i) Expect(absl::StrCat("once ", i), kEager);  // these take no place
  Expect("used", kReplayed);
  record("one too many");
  Expect("used", kReplayed);
  Expect("old", kRecorded);
}

TEST_F(RecorderTest, WhatDoesNotFitIntoMemoryIsNotRecorded) {
  gpu_.set_full(true);
  Expect("a", kEager);
  Expect("a", kEager);
  gpu_.set_full(false);
  Expect("a", kEager);
  Expect("b", kEager);
  Expect("b", kRecorded);
}

TEST(NoRecorderTest, WorkJustRuns) {
  Recorder recorder(nullptr);
  int runs = 0;
  for (int i = 0; i < 3; ++i) recorder.Run("a", 1, [&] { ++runs; });
  EXPECT_EQ(runs, 3);
}

TEST(RecordedRowsTest, AreFewAndHardlyMoreThanAskedFor) {
  EXPECT_EQ(RecordedRows(1), kMinimumRows);
  EXPECT_EQ(RecordedRows(16), 16);
  EXPECT_EQ(RecordedRows(17), 24);
  EXPECT_EQ(RecordedRows(128), 128);
  EXPECT_EQ(RecordedRows(129), 144);
  EXPECT_EQ(RecordedRows(500), 512);
  int sizes = 0;
  for (int64_t rows = 1; rows <= 1024; ++rows) {
    const int64_t size = RecordedRows(rows);
    EXPECT_GE(size, rows);
    EXPECT_LE(size - rows, std::max<int64_t>(kMinimumRows - 1, rows / 8)) << rows;
    sizes += RecordedRows(rows + 1) != size;
  }
  EXPECT_LE(sizes, 40);
}

}  // namespace
}  // namespace ham::trainer
