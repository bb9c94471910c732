#include "worker/trainer/device_ops.h"

#include <limits>
#include <memory>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/host_accelerator.h"
#include "tests/support/toy_images.h"
#include "worker/trainer/device.h"
#include "worker/trainer/ham_step.h"
#include "worker/trainer/models/networks.h"

namespace ham::trainer {
namespace {

using ::testing::ElementsAre;

constexpr int64_t kClasses = 4;

std::vector<double> Numbers(const at::Tensor& tensor) {
  const at::Tensor numbers = tensor.to(at::kDouble).contiguous();
  return {numbers.const_data_ptr<double>(), numbers.const_data_ptr<double>() + numbers.numel()};
}

at::Tensor Rows(std::initializer_list<double> logits) {
  return at::tensor(std::vector<double>(logits), at::kDouble).view({-1, kClasses});
}

at::Tensor Count(int64_t rows) { return at::full({1}, rows, at::kLong); }

TEST(DistanceFromTieTest, IsAShareOfTheRange) {
  const double infinity = std::numeric_limits<double>::infinity(), none = std::numeric_limits<double>::quiet_NaN();
  const at::Tensor logits = Rows({4, 1, 0, 2, 1, 4, 0, 2, 4, none, 0, 2, infinity, 1, 0, 2, 3, 3, 3, 3, 4, 1, 0, 2});
  const at::Tensor labels = at::zeros({6}, at::kLong);
  const at::Tensor found =
      device::DistanceFromTie(logits, device::OneHot(labels, kClasses, logits.options()), Count(5));
  EXPECT_THAT(Numbers(found), ElementsAre(0.5, 0.75, 0, 0, 0, infinity));
}

TEST(CountTrainedTest, PaddingIsNotCounted) {
  const at::Tensor logits = Rows({9, 0, 0, 0, 0, 9, 0, 0, 9, 0, 0, 0});
  const at::Tensor labels = at::tensor(std::vector<int64_t>{0, 2, 0}, at::kLong);
  for (const int64_t rows : {2, 3}) {
    const std::vector<double> found = Numbers(device::CountTrained(logits, labels, Count(rows)));
    EXPECT_EQ(found[0], rows - 1.0);  // right, of class 0
    double counted = 0;
    for (size_t i = kClasses; i < found.size(); ++i) counted += found[i];
    EXPECT_EQ(counted, static_cast<double>(rows));
  }
}

// Rows near a tie are asked again by the weights' own precision: few of them at once, and where more may be wrong, all.
class MiningTest : public ::testing::Test {
 protected:
  static constexpr int64_t kRows = 64;

  MiningTest() { at::set_num_threads(1); }

  // Forward passes of rows, where all logits are the class bias.
  int64_t PassesWith(const std::vector<double>& class_bias) {
    const HostAsDevice as_device;
    TrainSpec spec = ham::testing::ToySpec();
    spec.method.mining_start_epoch = 1;
    const std::unique_ptr<Model> model =
        MakePreActResNet18({.image = {1, 8, 8}, .classes = kClasses, .compute = at::kBFloat16}, 8);
    ParameterSet weights(model->parameters());
    weights.class_bias().copy_(at::tensor(class_bias, at::kDouble));
    NetworkPasses passes(*model, weights);
    std::vector<uint32_t> ids(kRows);
    for (uint32_t row = 0; row < kRows; ++row) ids[row] = row;
    const Batch batch = GatherBatch(ham::testing::ToyImages(kRows, 1), ids);
    StepCounts counts(kClasses, spec.method.mining_step, 1);
    const auto alone = MakeLocalCollective();
    const StepContext context{spec, 1, passes, *alone, [] {}};
    const auto attacked = AttackAndMine(context, &weights, batch, batch.x, &counts);
    EXPECT_TRUE(attacked.ok()) << attacked.status();
    return passes.passed()[kForwardPass];
  }
};

TEST_F(MiningTest, ClearRowsAreAskedOnce) { EXPECT_EQ(PassesWith({5, 0, 0, 0}), kRows); }

TEST_F(MiningTest, TiesAreAllAskedAgain) { EXPECT_EQ(PassesWith({5, 5, 5, 5}), 2 * kRows); }

// A training pass is made on more rows than there are: what stands in the others, here no numbers, counts for nothing.
TEST(TrainOnDeviceTest, RowsOfAnEarlierStepCountForNothing) {
  at::set_num_threads(1);
  const HostAsDevice as_device;
  ham::testing::HostAccelerator accelerator;
  const std::unique_ptr<Model> model = MakePreActResNet18({.image = {1, 8, 8}, .classes = kClasses}, 8);
  ParameterSet weights(model->parameters());
  weights.Initialize(5);
  const auto train = [&](NetworkPasses& passes, int64_t rows, bool numbers, ParameterSet* gradients) {
    std::vector<uint32_t> ids(rows);
    for (int64_t row = 0; row < rows; ++row) ids[row] = static_cast<uint32_t>(row);
    Batch batch = GatherBatch(ham::testing::ToyImages(rows, 1), ids);
    if (!numbers) batch.x.fill_(std::numeric_limits<double>::quiet_NaN());
    const std::vector<double> row_weights(rows, 1);
    TrainingPass pass{.rows = rows, .statistics = gradients};
    return passes.TrainOnDevice({batch, rows, row_weights, 0}, weights, &pass, gradients).clone();
  };
  ParameterSet expected(model->parameters()), found(model->parameters());
  NetworkPasses padded(*model, weights, &accelerator), plain(*model, weights);
  const at::Tensor sums = train(plain, 41, true, &expected);
  ASSERT_GT(RecordedRows(41), 41);
  for (const int64_t rows : {48, 41, 41}) {  // the last is a replay
    const at::Tensor same = train(padded, rows, rows == 41, &found);
    if (rows == 41) {
      EXPECT_TRUE(at::allclose(same, sums, 1e-5, 1e-6));
      EXPECT_TRUE(at::allclose(found.flat(), expected.flat(), 1e-4, 1e-5));
    }
  }
}

}  // namespace
}  // namespace ham::trainer
