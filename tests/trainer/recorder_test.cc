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
  // What running `name` once more adds to: runs of the work itself, recordings, replays.
  void Expect(const std::string& name, int runs, int recorded, int replayed) {
    const int runs_before = runs_, recorded_before = gpu_.recorded(), replayed_before = gpu_.replayed();
    recorder_.Run(name, [this] { ++runs_; });
    EXPECT_EQ(runs_ - runs_before > 0, runs > 0) << name;
    EXPECT_EQ(gpu_.recorded() - recorded_before, recorded) << name;
    EXPECT_EQ(gpu_.replayed() - replayed_before, replayed) << name;
  }
  void ExpectFirst(const std::string& name) { Expect(name, 1, 0, 0); }
  void ExpectSecond(const std::string& name) { Expect(name, 1, 1, 1); }
  void ExpectReplay(const std::string& name) { Expect(name, 1, 0, 1); }

  ham::testing::HostAccelerator gpu_;
  Recorder recorder_{&gpu_};
  int runs_ = 0;
};

TEST_F(RecorderTest, RecordsTheSecondTimeAndReplaysFromThenOn) {
  ExpectFirst("a");
  ExpectFirst("b");
  ExpectSecond("a");
  ExpectReplay("a");
  ExpectSecond("b");
  ExpectReplay("a");
}

TEST_F(RecorderTest, ForgetsAllWhenMemoryMoves) {
  ExpectFirst("a");
  ExpectSecond("a");
  recorder_.Forget();
  ExpectFirst("a");
}

TEST_F(RecorderTest, ForgetsWhatWasNotRunForLongest) {
  ExpectFirst("old");
  ExpectFirst("used");
  ExpectSecond("used");
  for (int i = 0; i < 62; ++i) ExpectFirst(absl::StrCat(i));
  ExpectReplay("used");
  ExpectFirst("one too many");
  ExpectReplay("used");
  ExpectFirst("old");
}

TEST(NoRecorderTest, WorkJustRuns) {
  Recorder recorder(nullptr);
  int runs = 0;
  for (int i = 0; i < 3; ++i) recorder.Run("a", [&] { ++runs; });
  EXPECT_EQ(runs, 3);
}

TEST(NetworkPassesTest, ForgottenRowsAreRecordedAnew) {
  const HostAsDevice as_device;
  ham::testing::HostAccelerator gpu;
  const std::unique_ptr<Model> model = ham::testing::ToyModel();
  ParameterSet weights(model->parameters());
  weights.Initialize(1);
  NetworkPasses passes(*model, weights, &gpu);
  passes.Freeze(weights);
  const at::Tensor x = NewImages(kMinimumRows, model->image_shape()).zero_();
  const at::Tensor expected = passes.Logits(x).clone();
  for (int recorded = 1; recorded <= 2; ++recorded) {
    EXPECT_TRUE(at::equal(passes.Logits(x), expected));
    EXPECT_EQ(gpu.recorded(), recorded);
    passes.ForgetRows();
    EXPECT_TRUE(at::equal(passes.Logits(x), expected));
  }
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
