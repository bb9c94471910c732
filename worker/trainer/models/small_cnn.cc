#include "worker/trainer/models/small_cnn.h"

#include <array>
#include <optional>
#include <tuple>
#include <utility>

#include <ATen/ops/addmm.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/threshold_backward.h>

#include "worker/trainer/device.h"
#include "worker/trainer/models/relu_pool.h"

namespace ham::trainer {
namespace {

// Order in the parameter set.
enum Index : size_t { kConv1Weight, kConv1Bias, kConv2Weight, kConv2Bias, kFc1Weight, kFc1Bias, kFc2Weight, kFc2Bias };

// What the backward pass needs of a forward one.
struct Activations {
  ReluPooled block1;  // [N, conv1, H/2, W/2]
  ReluPooled block2;  // [N, conv2, H/4, W/4]
  at::Tensor hidden;  // [N, hidden], after ReLU
  at::Tensor logits;
};

// conv1 to fc2, in the types that are computed in.
using Layers = std::array<at::Tensor, kFc2Bias + 1>;

// conv1 has too few inputs to gain from a lower precision where its loops are ours.
at::ScalarType TypeOf(size_t index, const ParameterSet& weights, at::ScalarType compute) {
  if (weights.type() == at::kDouble) return at::kDouble;
  return index <= kConv1Bias && OnHost(weights.flat()) ? weights.type() : compute;
}

// Copies only where the type is another.
Layers LayersOf(const ParameterSet& weights, at::ScalarType compute) {
  Layers out;
  for (size_t i = 0; i < out.size(); ++i) out[i] = weights[i].to(TypeOf(i, weights, compute));
  return out;
}

// x, images, and all gradients are of the images' type outside, of the layers' inside.
Activations Forward(const Layers& layers, const at::Tensor& x) {
  Activations out;
  out.block1 = ConvolveReluPool(x.to(layers[kConv1Weight].scalar_type()), layers[kConv1Weight], layers[kConv1Bias]);
  const at::Tensor between = out.block1.values.to(layers[kConv2Weight].scalar_type());
  out.block2 = ConvolveReluPool(between, layers[kConv2Weight], layers[kConv2Bias]);
  out.hidden = at::addmm(layers[kFc1Bias], AsRows(out.block2.values), AsRows(layers[kFc1Weight]).t()).relu_();
  out.logits = at::addmm(layers[kFc2Bias], out.hidden, layers[kFc2Weight].t()).to(x.scalar_type());
  return out;
}

// Gradients with respect to fc1's output (before ReLU), [N, hidden], and to block 2's, [N, conv2, H/4, W/4].
std::pair<at::Tensor, at::Tensor> BackwardToBlock2(const Layers& layers, const Activations& saved,
                                                   const at::Tensor& d_logits) {
  const at::Tensor d_hidden = at::threshold_backward(at::mm(d_logits, layers[kFc2Weight]), saved.hidden, 0);
  const at::Tensor& block2 = saved.block2.values;
  const at::Tensor rows = at::mm(d_hidden, AsRows(layers[kFc1Weight]));
  return {d_hidden, rows.as_strided(block2.sizes(), block2.strides())};
}

at::Tensor InputGradientOf(const Layers& layers, const at::Tensor& x, const LogitsGradient& loss) {
  const Activations saved = Forward(layers, x);
  const at::Tensor d_logits = loss(saved.logits).to(saved.hidden.scalar_type());
  const at::Tensor d_block2 = BackwardToBlock2(layers, saved, d_logits).second;
  const at::Tensor d_block1 =
      ConvolveReluPoolBackward(saved.block2, d_block2, layers[kConv2Weight]).to(layers[kConv1Weight].scalar_type());
  return ConvolveReluPoolBackward(saved.block1, d_block1, layers[kConv1Weight]).to(x.scalar_type());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> ConvolveBackward(const at::Tensor& gradient, const at::Tensor& x,
                                                                const at::Tensor& weight, bool input) {
  const std::array<int64_t, 1> bias_size = {weight.size(0)};
  return at::convolution_backward(gradient, x, weight, at::OptionalIntArrayRef(bias_size), {1, 1}, {1, 1}, {1, 1},
                                  false, {0, 0}, 1, {input, true, true});
}

class FrozenSmallCnn : public FrozenNetwork {
 public:
  FrozenSmallCnn(const std::optional<Normalization>& normalization, const ParameterSet& weights, at::ScalarType compute)
      : FrozenNetwork(normalization, weights, compute) {
    for (size_t i = 0; i < layers_.size(); ++i) {
      layers_[i] = at::empty_like(weights[i], TypeOf(i, weights, compute));
    }
  }

 private:
  void DoRefresh(const ParameterSet& weights) override {
    for (size_t i = 0; i < layers_.size(); ++i) layers_[i].copy_(weights[i]);
  }

  at::Tensor DoInputGradient(const at::Tensor& x, const LogitsGradient& loss) const override {
    return InputGradientOf(layers_, x, loss);
  }

  at::Tensor DoLogits(const at::Tensor& x) const override { return Forward(layers_, x).logits; }

  Layers layers_;
};

class SmallCnn : public Model {
 public:
  explicit SmallCnn(const SmallCnnShape& shape) : Model(shape.normalization), shape_(shape) {
    const auto add = [this](const std::string& layer, std::vector<int64_t> weight, int64_t fan_in,
                            std::vector<int64_t> compute) {
      const int64_t out = weight[0];
      const ParameterSpec::Initial initial = PyTorchDefault(fan_in);
      parameters_.push_back(
          {layer + ".weight", std::move(weight), std::move(compute), ParameterKind::kWeight, initial});
      parameters_.push_back({layer + ".bias", {out}, {out}, ParameterKind::kBias, initial});
    };
    const int64_t c = shape.image.channels, h = shape.image.height / 4, w = shape.image.width / 4;
    add("conv1", {shape.conv1, c, 3, 3}, 9 * c, {shape.conv1, c, 3, 3});
    add("conv2", {shape.conv2, shape.conv1, 3, 3}, 9 * shape.conv1, {shape.conv2, shape.conv1, 3, 3});
    const int64_t flat = shape.conv2 * h * w;
    add("fc1", {shape.hidden, flat}, flat, {shape.hidden, shape.conv2, h, w});
    add("fc2", {shape.classes, shape.hidden}, shape.hidden, {shape.classes, shape.hidden});
    parameters_.push_back(ClassBiasSpec(shape.classes));
  }

  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const ImageShape& image_shape() const override { return shape_.image; }
  int64_t classes() const override { return shape_.classes; }
  ModelFlops flops() const override {
    const int64_t pixels = shape_.image.height * shape_.image.width;
    const int64_t conv1 = 2 * 9 * shape_.image.channels * shape_.conv1 * pixels;
    const int64_t conv2 = 2 * 9 * shape_.conv1 * shape_.conv2 * (pixels / 4);
    const int64_t linear = 2 * shape_.hidden * (shape_.conv2 * (pixels / 16) + shape_.classes);
    return {conv1 + conv2 + linear, conv1};
  }

 private:
  at::Tensor DoLogits(const ParameterSet& weights, const at::Tensor& x) const override {
    return Forward(LayersOf(weights, weights.type()), x).logits;
  }

  at::Tensor DoInputGradient(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss,
                             TrainingPass*) const override {
    return InputGradientOf(LayersOf(weights, shape_.compute), x, loss);
  }

  std::unique_ptr<FrozenNetwork> DoFreeze(const ParameterSet& weights) const override {
    return std::make_unique<FrozenSmallCnn>(normalization(), weights, shape_.compute);
  }

  void DoWeightGradients(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss, TrainingPass*,
                         ParameterSet* gradients) const override {
    const Layers layers = LayersOf(weights, shape_.compute);
    const Activations saved = Forward(layers, x);
    const at::Tensor d_logits = loss(saved.logits).to(saved.hidden.scalar_type());
    const auto [d_hidden, d_block2] = BackwardToBlock2(layers, saved, d_logits);
    Store(gradients, kFc2Weight, at::mm(d_logits.t(), saved.hidden), at::sum(d_logits, at::IntArrayRef{0}));
    AsRows((*gradients)[kFc1Weight]).copy_(at::mm(d_hidden.t(), AsRows(saved.block2.values)));
    (*gradients)[kFc1Bias].copy_(at::sum(d_hidden, at::IntArrayRef{0}));

    const at::Tensor d_conv2 = ReluPoolBackward(saved.block2, d_block2);
    const at::Tensor between = saved.block1.values.to(d_conv2.scalar_type());
    const auto [d_block1, w2, b2] = ConvolveBackward(d_conv2, between, layers[kConv2Weight], true);
    Store(gradients, kConv2Weight, w2, b2);
    const at::ScalarType first = layers[kConv1Weight].scalar_type();
    const at::Tensor d_conv1 = ReluPoolBackward(saved.block1, d_block1.to(first));
    const auto [unused, w1, b1] = ConvolveBackward(d_conv1, x.to(first), layers[kConv1Weight], false);
    Store(gradients, kConv1Weight, w1, b1);
  }

  static void Store(ParameterSet* gradients, Index weight, const at::Tensor& d_weight, const at::Tensor& d_bias) {
    (*gradients)[weight].copy_(d_weight);
    (*gradients)[weight + 1].copy_(d_bias);
  }

  const SmallCnnShape shape_;
  std::vector<ParameterSpec> parameters_;
};

}  // namespace

std::unique_ptr<Model> MakeSmallCnn(const SmallCnnShape& shape) { return std::make_unique<SmallCnn>(shape); }

}  // namespace ham::trainer
