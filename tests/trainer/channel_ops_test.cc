// BatchNorm, frozen or in training mode, with the sum before it and ReLU behind it: on a device these are one, and
// equal to the host's one after the other.
#include "worker/trainer/models/channel_ops.h"

#include <optional>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "tests/support/torch_seed.h"
#include "worker/trainer/device.h"
#include "worker/trainer/models/batch_norm.h"
#include "worker/trainer/models/batch_norm_on_device.h"
#include "worker/trainer/models/scale_and_shift.h"

namespace ham::trainer {
namespace {

constexpr int64_t kRows = 9, kChannels = 6;

at::Tensor Images(double center) {
  return (center + at::randn({kRows, kChannels, 4, 5}, at::kDouble)).contiguous(at::MemoryFormat::ChannelsLast);
}

struct Both {
  at::Tensor sum, y;
};

class ChannelOpsTest : public ::testing::Test {
 protected:
  ChannelOpsTest() {
    at::set_num_threads(1);
    ham::testing::SeedTorch();
    for (at::Tensor* const images : {&x_, &added_, &d_sum_, &d_y_}) *images = Images(images == &x_ ? 2 : 0);
    scale_ = at::rand({kChannels}, at::kDouble) - 0.3;
    shift_ = at::randn({kChannels}, at::kDouble);
  }

  // Results, then gradients for x, for what is added, and for scale and shift where `trains`. `forward` may use all of
  // these but the gradients; of d_sum and d_y those rows are 0 that do not count.
  template <typename Forward>
  std::vector<at::Tensor> Differentiate(bool trains, const Forward& forward) {
    std::vector<at::Tensor> leaves;
    for (const at::Tensor* const tensor : {&x_, &added_, &scale_, &shift_}) {
      leaves.push_back(tensor->detach().set_requires_grad(true));
    }
    const Both out = forward(leaves[0], leaves[1], leaves[2], leaves[3]);
    if (!trains) leaves.resize(2);
    std::vector<at::Tensor> found = torch::autograd::grad({out.sum, out.y}, leaves, {d_sum_, d_y_});
    found.push_back(out.sum.detach());
    found.push_back(out.y.detach());
    return found;
  }

  static void ExpectClose(const std::vector<at::Tensor>& found, const std::vector<at::Tensor>& expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) EXPECT_TRUE(at::allclose(found[i], expected[i], 1e-10, 1e-10)) << i;
  }

  at::Tensor x_, added_, d_sum_, d_y_, scale_, shift_;
};

TEST_F(ChannelOpsTest, AFrozenBatchNormIsThatOfTheHost) {
  for (const bool relu : {false, true}) {
    const auto work = [&](const at::Tensor& x, const at::Tensor& added, const at::Tensor&, const at::Tensor&) {
      const Shifted out = AddScaleAndShift(x, added, scale_, shift_, relu);
      return Both{out.sum, out.y};
    };
    const std::vector<at::Tensor> expected = Differentiate(false, work);
    const HostAsDevice as_device;
    ExpectClose(Differentiate(false, work), expected);
  }
}

TEST_F(ChannelOpsTest, WithoutASumItIsTheSame) {
  added_.zero_();
  d_sum_.zero_();
  const auto work = [&](const at::Tensor& x, const at::Tensor& added, const at::Tensor&, const at::Tensor&) {
    return Both{x + added, ScaleAndShift(x + added, scale_, shift_, /*relu=*/true)};
  };
  const std::vector<at::Tensor> expected = Differentiate(false, work);
  const HostAsDevice as_device;
  ExpectClose(Differentiate(false, work), expected);
}

// So many rows count, as the host or as the device knows it.
class ChannelOpsInTrainingTest : public ChannelOpsTest,
                                 public ::testing::WithParamInterface<std::tuple<int64_t, bool>> {};
INSTANTIATE_TEST_SUITE_P(Rows, ChannelOpsInTrainingTest,
                         ::testing::Combine(::testing::Values(1, 4, kRows), ::testing::Bool()));

TEST_P(ChannelOpsInTrainingTest, ABatchNormIsThatOfTheHost) {
  const auto [rows, on_device] = GetParam();
  for (const bool relu : {false, true}) {
    x_.narrow(0, rows, kRows - rows).fill_(1e3);  // nonsense in rows that do not count
    for (at::Tensor* const gradient : {&d_sum_, &d_y_}) gradient->narrow(0, rows, kRows - rows).zero_();
    at::Tensor mean = at::zeros_like(scale_), variance = at::zeros_like(scale_);
    TrainingPass pass{.rows = rows};
    std::vector<at::Tensor> expected = Differentiate(
        true, [&](const at::Tensor& x, const at::Tensor& added, const at::Tensor& scale, const at::Tensor& shift) {
          const at::Tensor sum = x + added, y = BatchNormOfBatch(sum, scale, shift, &pass, mean, variance);
          return Both{sum, relu ? at::relu(y) : y};
        });
    expected.insert(expected.end(), {mean.clone(), variance.clone()});

    const HostAsDevice as_device;
    TrainingPass same{.rows = on_device ? kRows : rows};
    if (on_device) same.rows_on_device = at::full({1}, rows, at::kLong);
    std::vector<at::Tensor> found = Differentiate(true, [&](const at::Tensor& x, const at::Tensor& added,
                                                            const at::Tensor& scale, const at::Tensor& shift) {
      const device::NormalizedBatch out = device::BatchNormOfBatch(x, added, scale, shift, relu, &same, mean, variance);
      return Both{out.sum, out.y};
    });
    found.insert(found.end(), {mean, variance});
    ExpectClose(found, expected);
    EXPECT_TRUE(same.has_rows);
  }
}

// 0 times what is no number would be none: such rows must be left out, not multiplied away.
TEST_F(ChannelOpsTest, RowsThatDoNotCountMayBeNoNumbers) {
  const HostAsDevice as_device;
  x_.narrow(0, 5, kRows - 5).fill_(std::numeric_limits<double>::quiet_NaN());
  at::Tensor mean = at::zeros_like(scale_), variance = at::zeros_like(scale_);
  const TrueRows rows{5};
  const ChannelOps& ops = ComposedChannelOps();
  const auto batch = ops.Measure(x_, {}, rows, scale_, shift_, {}, mean, variance);
  const auto gradients = ops.MeasureGradients(d_y_, x_, batch, true, rows, scale_, {});
  const at::Tensor d_x = ops.NormalizeBackward(d_y_, x_, batch, true, rows, gradients, {});
  for (const at::Tensor& numbers : {mean, variance, gradients.d_scale, gradients.d_shift, d_x}) {
    EXPECT_FALSE(numbers.isnan().any().item<bool>());
  }
}

}  // namespace
}  // namespace ham::trainer
