#include "worker/trainer/models/batch_norm_on_device.h"

#include <algorithm>
#include <array>

#include <ATen/TensorOperators.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/item.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "worker/trainer/device.h"
#include "worker/trainer/models/batch_norm.h"

namespace ham::trainer::device {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Two numbers a channel, summed over images [N, C, H, W] in float64: [2 C].
at::Tensor SumChannels(const at::Tensor& first, const at::Tensor& second) {
  constexpr std::array<int64_t, 3> pixels = {0, 2, 3};
  return at::cat({at::sum(first, pixels, false, at::kDouble), at::sum(second, pixels, false, at::kDouble)});
}

void SumOverRanks(TrainingPass* pass, at::Tensor* sums) {
  if (pass->collective != nullptr && pass->status.ok()) pass->status = pass->collective->AllReduceSum(*sums);
}

// [C] -> [1, C, 1, 1] of x's type
at::Tensor PerChannel(const at::Tensor& numbers, const at::Tensor& x) {
  return numbers.to(x.scalar_type()).view({1, -1, 1, 1});
}

// The formulas are those of batch_norm.cc.
struct BatchNormFunction : public torch::autograd::Function<BatchNormFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& scale,
                            const at::Tensor& shift, TrainingPass* pass, at::Tensor mean, at::Tensor variance) {
    const at::Tensor of_numbers = x.to(scale.scalar_type());
    const int64_t rows = std::min(pass->rows, x.size(0)), channels = x.size(1);
    const double relevant = static_cast<double>(rows * x.size(2) * x.size(3));
    at::Tensor origin = at::zeros_like(scale);
    if (rows > 0) origin.copy_(of_numbers.select(0, 0).select(1, 0).select(1, 0));
    const at::Tensor distance = of_numbers.narrow(0, 0, rows) - PerChannel(origin, of_numbers);
    at::Tensor sums = SumChannels(distance, distance * distance);
    const at::Tensor o = origin.to(at::kDouble), first = sums.narrow(0, 0, channels);
    sums.narrow(0, channels, channels).add_(o * (2 * first + relevant * o));
    first.add_(relevant * o);
    sums = at::cat({sums, at::full({1}, relevant, sums.options())});
    SumOverRanks(pass, &sums);
    const at::Tensor seen = sums.narrow(0, 2 * channels, 1);
    if (rows > 0) {
      pass->has_rows = true;
    } else if (pass->collective != nullptr && !pass->has_rows) {
      pass->has_rows = ToHost(seen).item<double>() > 0;
    }
    const at::Tensor count = seen.clamp_min(1);
    const at::Tensor average = sums.narrow(0, 0, channels) / count;
    const at::Tensor spread = (sums.narrow(0, channels, channels) / count - average * average).clamp_min(0);
    const at::Tensor inverse = at::rsqrt(spread + kBatchNormEpsilon);
    mean.copy_(average);
    variance.copy_(spread * (count / (count - 1).clamp_min(1)));
    context->save_for_backward({x, scale, average, inverse, count});
    context->saved_data["pass"] = reinterpret_cast<int64_t>(pass);
    const at::Tensor nearest = average.to(scale.scalar_type()), slope = inverse * scale;
    const at::Tensor offset = shift - (average - nearest) * slope;
    return ((of_numbers - PerChannel(nearest, of_numbers)) * PerChannel(slope, of_numbers) +
            PerChannel(offset, of_numbers))
        .to(x.scalar_type());
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &scale = saved[1], &average = saved[2], &inverse = saved[3], &count = saved[4];
    auto* pass = reinterpret_cast<TrainingPass*>(context->saved_data["pass"].toInt());
    const at::Tensor x = saved[0].to(scale.scalar_type()), dy = gradients[0].to(scale.scalar_type());
    const int64_t rows = std::min(pass->rows, x.size(0)), channels = x.size(1);
    const at::Tensor nearest = average.to(scale.scalar_type()), distance = x - PerChannel(nearest, x);
    at::Tensor sums = SumChannels(dy.narrow(0, 0, rows), dy.narrow(0, 0, rows) * distance.narrow(0, 0, rows));
    const at::Tensor first = sums.narrow(0, 0, channels), second = sums.narrow(0, channels, channels);
    second.sub_((average - nearest) * first).mul_(inverse);
    // Of this rank's rows, as they travel with the other gradients.
    const at::Tensor d_shift = at::empty_like(scale).copy_(first), d_scale = at::empty_like(scale).copy_(second);
    SumOverRanks(pass, &sums);
    const at::Tensor factor = inverse * scale;
    const at::Tensor of_distance = -factor * inverse * second / count;
    const at::Tensor constant = -factor * first / count - of_distance * (average - nearest);
    at::Tensor d_x = dy * PerChannel(factor, x) + distance * PerChannel(of_distance, x) + PerChannel(constant, x);
    d_x.narrow(0, rows, x.size(0) - rows).zero_();
    return {d_x.to(saved[0].scalar_type()), d_scale, d_shift, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor BatchNormOfBatch(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, TrainingPass* pass,
                            at::Tensor mean, at::Tensor variance) {
  if (pass->collective != nullptr || pass->rows < x.size(0)) {
    return BatchNormFunction::apply(x, scale, shift, pass, mean, variance);
  }
  pass->has_rows = true;
  // cuDNN writes 16 bytes at a time; the statistics of a model need not lie where it can.
  const at::Tensor new_mean = at::zeros_like(mean), new_variance = at::zeros_like(variance);
  at::Tensor out = at::batch_norm(x, scale, shift, new_mean, new_variance, /*training=*/true, /*momentum=*/1,
                                  kBatchNormEpsilon, /*cudnn_enabled=*/true);
  mean.copy_(new_mean);
  variance.copy_(new_variance);
  return out;
}

}  // namespace ham::trainer::device
