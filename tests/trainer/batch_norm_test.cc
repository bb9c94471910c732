#include "worker/trainer/models/batch_norm.h"

#include <optional>
#include <tuple>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/item.h>
#include <ATen/ops/max.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "tests/support/run_ranks.h"
#include "tests/support/torch_seed.h"
#include "worker/trainer/device.h"

namespace ham::trainer {
namespace {

constexpr int64_t kChannels = 6, kHeight = 5, kWidth = 3;

struct Normalized {
  at::Tensor y, d_x, d_scale, d_shift, mean, variance;
  absl::Status status;
};

// A batch, with the gradient that comes back for its result.
struct Example {
  at::Tensor x, d_y, scale, shift;
  int64_t rows() const { return x.size(0); }
  // The same with `count` more rows of nonsense behind it.
  Example Padded(int64_t count) const {
    const at::Tensor noise = at::full({count, kChannels, kHeight, kWidth}, 1e3, x.scalar_type());
    return {at::cat({x, noise}), at::cat({d_y, noise}), scale, shift};
  }
  Example Rows(int64_t begin, int64_t count) const {
    return {x.narrow(0, begin, count), d_y.narrow(0, begin, count), scale, shift};
  }
};

Example MakeExample(int64_t rows, at::ScalarType type = at::kDouble, double center = 3, double spread = 2) {
  const std::vector<int64_t> size = {rows, kChannels, kHeight, kWidth};
  return {(center + spread * at::randn(size, at::kDouble)).to(type), at::randn(size, type),
          at::rand({kChannels}, type) + 0.5, at::randn({kChannels}, type)};
}

// forward(x, scale, shift, mean, variance), with its gradients by autograd.
template <typename Forward>
Normalized Differentiate(const Example& in, const Forward& forward) {
  const at::Tensor x = in.x.detach().set_requires_grad(true), scale = in.scale.detach().set_requires_grad(true),
                   shift = in.shift.detach().set_requires_grad(true);
  Normalized out;
  out.mean = at::zeros({kChannels}, x.scalar_type());
  out.variance = at::ones({kChannels}, x.scalar_type());
  const at::Tensor y = forward(x, scale, shift, out.mean, out.variance);
  const auto gradients = torch::autograd::grad({y}, {x, scale, shift}, {in.d_y});
  out.y = y.detach();
  out.d_x = gradients[0];
  out.d_scale = gradients[1];
  out.d_shift = gradients[2];
  return out;
}

Normalized Ours(const Example& in, TrainingPass* pass) {
  Normalized out = Differentiate(in, [pass](const auto& x, const auto& scale, const auto& shift, auto mean, auto var) {
    return BatchNormOfBatch(x, scale, shift, pass, mean, var);
  });
  out.status = pass->status;
  return out;
}

Normalized PyTorchs(const Example& in) {
  return Differentiate(in, [](const auto& x, const auto& scale, const auto& shift, auto mean, auto var) {
    // With momentum 1 the running statistics are those of the batch.
    return at::batch_norm(x, scale, shift, mean, var, true, 1, kBatchNormEpsilon, false);
  });
}

double Distance(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) return 1e300;
  return a.numel() == 0 ? 0 : at::max(at::abs(a.to(at::kDouble) - b.to(at::kDouble))).item<double>();
}

void ExpectNear(const Normalized& actual, const Normalized& expected, double bound) {
  EXPECT_TRUE(actual.status.ok()) << actual.status;
  EXPECT_LE(Distance(actual.y, expected.y), bound);
  EXPECT_LE(Distance(actual.d_x, expected.d_x), bound);
  EXPECT_LE(Distance(actual.d_scale, expected.d_scale), bound);
  EXPECT_LE(Distance(actual.d_shift, expected.d_shift), bound);
  EXPECT_LE(Distance(actual.mean, expected.mean), bound);
  EXPECT_LE(Distance(actual.variance, expected.variance), bound);
}

class BatchNormTest : public ::testing::Test {
 protected:
  BatchNormTest() { ham::testing::SeedTorch(); }
};

// By the host's loops, and as on a device.
class BatchNormBothWaysTest : public BatchNormTest, public ::testing::WithParamInterface<bool> {
 protected:
  BatchNormBothWaysTest() {
    if (GetParam()) as_device_.emplace();
  }
  std::optional<HostAsDevice> as_device_;
};
INSTANTIATE_TEST_SUITE_P(OnDevice, BatchNormBothWaysTest, ::testing::Bool());

TEST_P(BatchNormBothWaysTest, ForwardAndBackwardArePyTorchs) {
  // Fewer and more pixels than one block of partial sums.
  for (const int64_t rows : {1, 2, 16, 90}) {
    const Example in = MakeExample(rows);
    TrainingPass pass{.rows = rows};
    ExpectNear(Ours(in, &pass), PyTorchs(in), 1e-12 * static_cast<double>(rows));
  }
}

TEST_P(BatchNormBothWaysTest, PaddedRowsCountForNothing) {
  const Example in = MakeExample(11);
  TrainingPass pass{.rows = 11};
  const Normalized expected = Ours(in, &pass);
  Normalized padded = Ours(in.Padded(5), &pass);
  EXPECT_EQ(Distance(padded.d_x.narrow(0, 11, 5), at::zeros({5, kChannels, kHeight, kWidth}, at::kDouble)), 0);
  padded.y = padded.y.narrow(0, 0, 11);
  padded.d_x = padded.d_x.narrow(0, 0, 11);
  ExpectNear(padded, expected, GetParam() ? 1e-12 : 0);  // the device has another way without padding
}

// Cancellation: the variance is a millionth of the square of the mean.
TEST_F(BatchNormTest, AMeanFarFromZeroTakesNoPrecision) {
  const Example in = MakeExample(64, at::kFloat, 1000, 1);
  const Example exact{in.x.to(at::kDouble), in.d_y.to(at::kDouble), in.scale.to(at::kDouble), in.shift.to(at::kDouble)};
  TrainingPass pass{.rows = 64};
  const Normalized ours = Ours(in, &pass), expected = PyTorchs(exact);
  EXPECT_LE(Distance(ours.variance, expected.variance), 1e-5);
  EXPECT_LE(Distance(ours.y, expected.y), 1e-5);  // PyTorch's own float32 is 7e-5 off
  EXPECT_LE(Distance(ours.d_x, expected.d_x), 1e-5);
}

// Rows of each rank; they are shared out in order. Whether as on a device.
class RankedBatchNormTest : public BatchNormTest,
                            public ::testing::WithParamInterface<std::tuple<std::vector<int64_t>, bool>> {};

TEST_P(RankedBatchNormTest, RanksTogetherAreOneRank) {
  const std::vector<int64_t> share = std::get<0>(GetParam());
  std::optional<HostAsDevice> as_device;
  if (std::get<1>(GetParam())) as_device.emplace();
  int64_t total = 0;
  for (const int64_t rows : share) total += rows;
  const Example in = MakeExample(total);
  TrainingPass alone{.rows = total};
  const Normalized expected = Ours(in, &alone);

  std::vector<Normalized> parts(share.size());
  ham::testing::RunRanks(static_cast<int>(share.size()), [&](Collective& ranks) {
    const int rank = ranks.rank();
    int64_t begin = 0;
    for (int r = 0; r < rank; ++r) begin += share[r];
    TrainingPass pass{.rows = share[rank], .collective = &ranks};
    Normalized& part = parts[rank];
    part = Ours(in.Rows(begin, share[rank]).Padded(3), &pass);
    part.y = part.y.narrow(0, 0, share[rank]);
    part.d_x = part.d_x.narrow(0, 0, share[rank]);
  });

  // Gradients of scale and shift are each rank's own share; the statistics are those of all on every rank.
  Normalized together = parts[0];
  for (size_t rank = 1; rank < parts.size(); ++rank) {
    EXPECT_TRUE(parts[rank].status.ok()) << parts[rank].status;
    EXPECT_EQ(Distance(parts[rank].mean, parts[0].mean), 0);
    EXPECT_EQ(Distance(parts[rank].variance, parts[0].variance), 0);
    together.y = at::cat({together.y, parts[rank].y});
    together.d_x = at::cat({together.d_x, parts[rank].d_x});
    together.d_scale = together.d_scale + parts[rank].d_scale;
    together.d_shift = together.d_shift + parts[rank].d_shift;
  }
  ExpectNear(together, expected, 1e-12);
}

INSTANTIATE_TEST_SUITE_P(Shares, RankedBatchNormTest,
                         ::testing::Combine(::testing::Values(std::vector<int64_t>{7, 6}, std::vector<int64_t>{1, 9, 4},
                                                              std::vector<int64_t>{5, 0, 8},
                                                              std::vector<int64_t>{0, 0, 3}),
                                            ::testing::Bool()));

TEST_P(BatchNormBothWaysTest, ALostRankEndsInTheStatus) {
  const Example in = MakeExample(4);
  ham::testing::RunRanks(2, [&](Collective& ranks) {
    if (ranks.rank() == 1) return;
    TrainingPass pass{.rows = 4, .collective = &ranks};
    EXPECT_EQ(Ours(in, &pass).status.code(), absl::StatusCode::kUnavailable);
  });
}

}  // namespace
}  // namespace ham::trainer
