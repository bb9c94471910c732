#include "worker/trainer/models/channel_ops.h"

#include <algorithm>
#include <array>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp_min.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/lt.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "worker/trainer/models/batch_norm.h"

namespace ham::trainer {
namespace {

// [C] -> [1, C, 1, 1] of x's type
at::Tensor PerChannel(const at::Tensor& numbers, const at::Tensor& x) {
  return numbers.to(x.scalar_type()).view({1, -1, 1, 1});
}

// Where `mask` says so, else 0. What stands there may be no number.
at::Tensor Masked(const at::Tensor& mask, const at::Tensor& x) {
  return at::where(mask, x, at::zeros({}, x.options()));
}

// [N, 1, 1, 1] bool
at::Tensor MaskOf(const TrueRows& rows, const at::Tensor& x) {
  const at::Tensor row = at::arange(x.size(0), x.options().dtype(at::kLong));
  return (rows.count.defined() ? at::lt(row, rows.count) : at::lt(row, rows.most)).view({-1, 1, 1, 1});
}

// [1] float64: so many pixels.
at::Tensor PixelsOf(const TrueRows& rows, const at::Tensor& x) {
  const int64_t area = x.size(2) * x.size(3);
  if (rows.count.defined()) return rows.count.to(at::kDouble) * static_cast<double>(area);
  return at::full({1}, static_cast<double>(std::min(rows.most, x.size(0)) * area), x.options().dtype(at::kDouble));
}

// Two numbers a channel, summed over images in float64: [2 C].
at::Tensor SumChannels(const at::Tensor& first, const at::Tensor& second) {
  constexpr std::array<int64_t, 3> pixels = {0, 2, 3};
  return at::cat({at::sum(first, pixels, false, at::kDouble), at::sum(second, pixels, false, at::kDouble)});
}

// The formulas are those of batch_norm.cc.
class Composed final : public ChannelOps {
 public:
  Shifted ScaleAndShift(const at::Tensor& x, const at::Tensor& added, const at::Tensor& scale, const at::Tensor& shift,
                        bool relu) const override {
    Shifted out{added.defined() ? x + added : x, {}};
    const at::Tensor numbers = out.sum.to(scale.scalar_type());
    const at::Tensor y = numbers * PerChannel(scale, numbers) + PerChannel(shift, numbers);
    out.y = (relu ? at::clamp_min(y, 0) : y).to(x.scalar_type());
    return out;
  }

  at::Tensor ScaleAndShiftBackward(const at::Tensor& d_y, const at::Tensor& y, const at::Tensor& scale,
                                   const at::Tensor& d_sum) const override {
    const at::Tensor gradient = d_y.to(scale.scalar_type());
    at::Tensor d_x = gradient * PerChannel(scale, gradient);
    if (y.defined()) d_x = Masked(y > 0, d_x);
    if (d_sum.defined()) d_x = d_x + d_sum.to(d_x.scalar_type());
    return d_x.to(d_y.scalar_type());
  }

  BatchStatistics Measure(const at::Tensor& x, const at::Tensor& added, const TrueRows& rows, const at::Tensor& scale,
                          const at::Tensor& shift, const OverRanks& over_ranks, at::Tensor mean,
                          at::Tensor variance) const override {
    BatchStatistics out{added.defined() ? x + added : x, {}, {}};
    const int64_t channels = x.size(1);
    const at::Tensor numbers = out.sum.to(scale.scalar_type()), pixels = PixelsOf(rows, x);
    const at::Tensor origin = numbers.select(0, 0).select(1, 0).select(1, 0);
    const at::Tensor distance = Masked(MaskOf(rows, x), numbers - PerChannel(origin, numbers));
    out.sums = SumChannels(distance, distance * distance);
    const at::Tensor o = origin.to(at::kDouble), first = out.sums.narrow(0, 0, channels);
    out.sums.narrow(0, channels, channels).add_(o * (2 * first + pixels * o));
    first.add_(pixels * o);
    out.sums = at::cat({out.sums, pixels});
    if (over_ranks) over_ranks(out.sums);
    const Batch batch(out.sums, channels);
    mean.copy_(batch.average);
    variance.copy_(batch.spread * (batch.count / (batch.count - 1).clamp_min(1)));
    const at::Tensor nearest = batch.average.to(scale.scalar_type()), slope = batch.inverse * scale;
    out.by = at::stack(
        {nearest, slope.to(scale.scalar_type()), (shift - (batch.average - nearest) * slope).to(scale.scalar_type())});
    return out;
  }

  at::Tensor Normalize(const at::Tensor& x, const at::Tensor& by, bool relu) const override {
    const at::Tensor y = Normalized(x, by);
    return (relu ? at::clamp_min(y, 0) : y).to(x.scalar_type());
  }

  GradientStatistics MeasureGradients(const at::Tensor& d_y, const at::Tensor& x, const BatchStatistics& batch,
                                      bool relu, const TrueRows& rows, const at::Tensor& scale,
                                      const OverRanks& over_ranks) const override {
    const int64_t channels = x.size(1);
    const Batch of(batch.sums, channels);
    const at::Tensor mask = MaskOf(rows, x), gradient = Masked(mask, Behind(d_y, x, batch.by, relu));
    at::Tensor sums = SumChannels(gradient, gradient * Masked(mask, Distance(x, batch.by)));
    const at::Tensor first = sums.narrow(0, 0, channels), second = sums.narrow(0, channels, channels);
    const at::Tensor rest = of.average - batch.by.select(0, 0);
    second.sub_(rest * first).mul_(of.inverse);
    GradientStatistics out{at::empty_like(scale).copy_(second), at::empty_like(scale).copy_(first), {}};
    if (over_ranks) over_ranks(sums);
    const at::Tensor factor = of.inverse * scale;
    const at::Tensor of_distance = -factor * of.inverse * second / of.count;
    out.by = at::stack({of_distance, -factor * first / of.count - of_distance * rest}).to(scale.scalar_type());
    return out;
  }

  at::Tensor NormalizeBackward(const at::Tensor& d_y, const at::Tensor& x, const BatchStatistics& batch, bool relu,
                               const TrueRows& rows, const GradientStatistics& gradients,
                               const at::Tensor& d_sum) const override {
    const at::Tensor gradient = Behind(d_y, x, batch.by, relu);
    at::Tensor d_x = gradient * PerChannel(batch.by.select(0, 1), gradient) +
                     Distance(x, batch.by) * PerChannel(gradients.by.select(0, 0), gradient) +
                     PerChannel(gradients.by.select(0, 1), gradient);
    if (d_sum.defined()) d_x = d_x + d_sum.to(d_x.scalar_type());
    return Masked(MaskOf(rows, x), d_x).to(x.scalar_type());
  }

 private:
  // What the sums of a batch say, float64.
  struct Batch {
    Batch(const at::Tensor& sums, int64_t channels)
        : count(sums.narrow(0, 2 * channels, 1).clamp_min(1)),
          average(sums.narrow(0, 0, channels) / count),
          spread((sums.narrow(0, channels, channels) / count - average * average).clamp_min(0)),
          inverse(at::rsqrt(spread + kBatchNormEpsilon)) {}
    const at::Tensor count, average, spread, inverse;
  };

  static at::Tensor Distance(const at::Tensor& x, const at::Tensor& by) {
    const at::Tensor numbers = x.to(by.scalar_type());
    return numbers - PerChannel(by.select(0, 0), numbers);
  }

  static at::Tensor Normalized(const at::Tensor& x, const at::Tensor& by) {
    const at::Tensor distance = Distance(x, by);
    return distance * PerChannel(by.select(0, 1), distance) + PerChannel(by.select(0, 2), distance);
  }

  // Of the gradient with respect to the result, what ReLU lets through.
  static at::Tensor Behind(const at::Tensor& d_y, const at::Tensor& x, const at::Tensor& by, bool relu) {
    const at::Tensor gradient = d_y.to(by.scalar_type());
    return relu ? Masked(Normalized(x, by) > 0, gradient) : gradient;
  }
};

}  // namespace

const ChannelOps& ComposedChannelOps() {
  static const Composed ops;
  return ops;
}

}  // namespace ham::trainer
