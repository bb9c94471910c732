#include "worker/trainer/models/layers.h"

#include <cassert>
#include <cmath>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>

#include "worker/trainer/device.h"
#include "worker/trainer/models/batch_norm.h"
#include "worker/trainer/models/batch_norm_on_device.h"
#include "worker/trainer/models/scale_and_shift.h"

namespace ham::trainer {

ConvolutionLayer LayerList::Convolution(const std::string& name, int64_t in, int64_t out, int64_t kernel,
                                        int64_t stride, int64_t padding, bool bias) {
  assert(kernel > 1 || in >= 8);
  const int64_t fan_in = in * kernel * kernel, fan_out = out * kernel * kernel;
  const ParameterSpec::Initial initial =
      initialization_ == Initialization::kPyTorch
          ? PyTorchDefault(fan_in)
          : ParameterSpec::Initial{ParameterSpec::Initial::kNormal, std::sqrt(2.0 / static_cast<double>(fan_out))};
  ConvolutionLayer layer{.stride = stride, .padding = padding};
  layer.weight = static_cast<int64_t>(trained_.size());
  const std::vector<int64_t> shape = {out, in, kernel, kernel};
  trained_.push_back({name + ".weight", shape, shape, ParameterKind::kWeight, initial});
  if (bias) {
    layer.bias = static_cast<int64_t>(trained_.size());
    trained_.push_back({name + ".bias", {out}, {out}, ParameterKind::kBias, PyTorchDefault(fan_in)});
  }
  return layer;
}

BatchNormLayer LayerList::BatchNorm(const std::string& name, int64_t channels) {
  const auto add = [&](std::vector<ParameterSpec>* list, const char* what, ParameterKind kind, double value) {
    list->push_back({name + what, {channels}, {channels}, kind, {ParameterSpec::Initial::kConstant, value}});
    return static_cast<int64_t>(list->size()) - 1;
  };
  BatchNormLayer layer;
  layer.scale = add(&trained_, ".weight", ParameterKind::kNorm, 1);
  layer.shift = add(&trained_, ".bias", ParameterKind::kNorm, 0);
  layer.mean = add(&statistics_, ".running_mean", ParameterKind::kStatistic, 0);
  layer.variance = add(&statistics_, ".running_var", ParameterKind::kStatistic, 1);
  batch_norms_.push_back(layer);
  return layer;
}

LinearLayer LayerList::Linear(const std::string& name, int64_t in, int64_t out) {
  return AddLinear(name, in, out, {out, in});
}

LinearLayer LayerList::LinearOfImage(const std::string& name, const ImageShape& in, int64_t out) {
  return AddLinear(name, in.size(), out, {out, in.channels, in.height, in.width});
}

LinearLayer LayerList::AddLinear(const std::string& name, int64_t in, int64_t out,
                                 const std::vector<int64_t>& compute_shape) {
  const auto place = static_cast<int64_t>(trained_.size());
  trained_.push_back({name + ".weight", {out, in}, compute_shape, ParameterKind::kWeight, PyTorchDefault(in)});
  const ParameterSpec::Initial bias =
      initialization_ == Initialization::kPyTorch ? PyTorchDefault(in) : ParameterSpec::Initial{};
  trained_.push_back({name + ".bias", {out}, {out}, ParameterKind::kBias, bias});
  return {place, place + 1};
}

std::vector<ParameterSpec> LayerList::Specs(int64_t classes) const {
  std::vector<ParameterSpec> out = trained_;
  out.insert(out.end(), statistics_.begin(), statistics_.end());
  out.push_back(ClassBiasSpec(classes));
  return out;
}

ForwardPass ForwardPass::Frozen(const std::vector<at::Tensor>& values, size_t trained, Activation activation,
                                at::ScalarType compute) {
  ForwardPass out(values, trained, nullptr, activation, compute);
  out.frozen_ = true;
  return out;
}

ForwardPass ForwardPass::Counting(const std::vector<at::Tensor>& values, ModelFlops* flops) {
  ForwardPass out(values, 0, nullptr, Activation::kRelu, at::kFloat);
  out.flops_ = flops;
  return out;
}

at::Tensor ForwardPass::Count(const at::Tensor& weight, at::IntArrayRef output) const {
  at::Tensor out = at::empty(output, weight.options());
  const int64_t flops = 2 * weight.numel() * (out.numel() / weight.size(0));  // of one row
  if (flops_->forward == 0) flops_->first_layer = flops;
  flops_->forward += flops;
  return out;
}

at::Tensor ForwardPass::Convolve(const at::Tensor& x, const ConvolutionLayer& layer) const {
  if (flops_ != nullptr) {
    const at::Tensor& weight = Value(layer.weight);
    const auto size = [&](int64_t dim) {
      return (x.size(dim) + 2 * layer.padding - weight.size(dim)) / layer.stride + 1;
    };
    return Count(weight, {1, weight.size(0), size(2), size(3)});
  }
  const at::Tensor bias = layer.bias == kNone ? at::Tensor() : Weight(layer.bias);
  return at::convolution(x.to(compute_), Weight(layer.weight), bias, {layer.stride, layer.stride},
                         {layer.padding, layer.padding}, {1, 1}, false, {0, 0}, 1);
}

bool ForwardPass::TrainsOnDevice(const at::Tensor& x) const {
  return training_ != nullptr && activation_ == Activation::kRelu && !OnHost(x);
}

at::Tensor ForwardPass::Normalize(const at::Tensor& x, const BatchNormLayer& layer) const {
  if (flops_ != nullptr) return x;
  const at::Tensor& scale = Value(layer.scale);
  const at::Tensor& shift = Value(layer.shift);
  if (frozen_) return ScaleAndShift(x, scale, shift, /*relu=*/false);
  if (training_ == nullptr) {
    const auto statistic = [&](int64_t place) { return trained_ + place; };
    return at::batch_norm(OnHost(x) ? x.to(scale.scalar_type()) : x, scale, shift, Value(statistic(layer.mean)),
                          Value(statistic(layer.variance)),
                          /*training=*/false, kBatchNormMomentum, kBatchNormEpsilon, /*cudnn_enabled=*/false);
  }
  return BatchNormOfBatch(x, scale, shift, training_, Statistic(layer.mean), Statistic(layer.variance));
}

at::Tensor ForwardPass::NormalizeAndActivate(const at::Tensor& x, const BatchNormLayer& layer) const {
  if (frozen_ && activation_ == Activation::kRelu) {
    return ScaleAndShift(x, Value(layer.scale), Value(layer.shift), /*relu=*/true);
  }
  if (TrainsOnDevice(x)) {
    return device::BatchNormOfBatch(x, {}, Value(layer.scale), Value(layer.shift), /*relu=*/true, training_,
                                    Statistic(layer.mean), Statistic(layer.variance))
        .y;
  }
  return Activate(Normalize(x, layer));
}

ForwardPass::Residual ForwardPass::AddNormalizeAndActivate(const at::Tensor& x, const at::Tensor& added,
                                                           const BatchNormLayer& layer) const {
  if (frozen_ && activation_ == Activation::kRelu) {
    const Shifted out = AddScaleAndShift(x, added, Value(layer.scale), Value(layer.shift), /*relu=*/true);
    return {out.sum, out.y};
  }
  if (TrainsOnDevice(x)) {
    const device::NormalizedBatch out =
        device::BatchNormOfBatch(x, added, Value(layer.scale), Value(layer.shift), /*relu=*/true, training_,
                                 Statistic(layer.mean), Statistic(layer.variance));
    return {out.sum, out.y};
  }
  const at::Tensor sum = x + added;
  return {sum, NormalizeAndActivate(sum, layer)};
}

at::Tensor ForwardPass::Linear(const at::Tensor& x, const LinearLayer& layer) const {
  if (flops_ != nullptr) return Count(Value(layer.weight), {1, Value(layer.weight).size(0)});
  // Images and their weights lie channels_last: pixel by pixel there is nothing to move.
  const auto rows = [](const at::Tensor& t) {
    return t.dim() == 4 ? t.permute({0, 2, 3, 1}).reshape({t.size(0), -1}) : t;
  };
  return at::linear(rows(x.to(compute_)), rows(Weight(layer.weight)), Weight(layer.bias));
}

at::Tensor ForwardPass::Activate(const at::Tensor& x) const {
  if (flops_ != nullptr) return x;
  return activation_ == Activation::kSilu ? at::silu(x) : at::relu(x);
}

at::Tensor ForwardPass::PoolAll(const at::Tensor& x) const { return at::mean(x, {2, 3}); }

void FoldBatchNorms(const ParameterSet& weights, size_t trained, const std::vector<BatchNormLayer>& layers,
                    std::vector<at::Tensor>* folded) {
  if (layers.empty()) return;
  // All layers' numbers of one kind, float64: on a device a few kernels make them, not a few a layer.
  const auto numbers = [&](int64_t BatchNormLayer::*kind, size_t from) {
    std::vector<at::Tensor> out;
    for (const BatchNormLayer& layer : layers) out.push_back(weights[from + layer.*kind]);
    return at::cat(out).to(at::kDouble);
  };
  const at::Tensor scale =
      numbers(&BatchNormLayer::scale, 0) * at::rsqrt(numbers(&BatchNormLayer::variance, trained) + kBatchNormEpsilon);
  const at::Tensor shift = numbers(&BatchNormLayer::shift, 0) - numbers(&BatchNormLayer::mean, trained) * scale;
  const auto put = [&](const at::Tensor& numbers_of_all, int64_t BatchNormLayer::*kind) {
    const at::Tensor all = numbers_of_all.to(weights.type());
    std::vector<at::Tensor> from, to;
    int64_t begin = 0;
    for (const BatchNormLayer& layer : layers) {
      to.push_back((*folded)[layer.*kind]);
      from.push_back(all.narrow(0, begin, to.back().size(0)));
      begin += to.back().size(0);
    }
    at::_foreach_copy_(to, from);
  };
  put(scale, &BatchNormLayer::scale);
  put(shift, &BatchNormLayer::shift);
}

}  // namespace ham::trainer
