#include "worker/trainer/models/small_cnn.h"

#include <array>
#include <tuple>
#include <utility>

#include <ATen/ops/addmm.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/threshold_backward.h>

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

std::tuple<at::Tensor, at::Tensor, at::Tensor> ConvolveBackward(const at::Tensor& gradient, const at::Tensor& x,
                                                                const at::Tensor& weight, bool input, bool weights) {
  const std::array<int64_t, 1> bias_size = {weight.size(0)};
  return at::convolution_backward(gradient, x, weight, at::OptionalIntArrayRef(bias_size), {1, 1}, {1, 1}, {1, 1},
                                  false, {0, 0}, 1, {input, weights, weights});
}

// A channels_last image tensor as rows in memory order, [N, HWC], and the weight behind it alike: no copies.
at::Tensor AsRows(const at::Tensor& images) {
  return images.as_strided({images.size(0), images.size(1) * images.size(2) * images.size(3)}, {images.stride(0), 1});
}

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

 private:
  at::Tensor DoLogits(const ParameterSet& weights, const at::Tensor& x) const override {
    return Forward(weights, x).logits;
  }

  at::Tensor DoInputGradient(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss,
                             TrainingPass*) const override {
    const Activations saved = Forward(weights, x);
    const at::Tensor d_pooled2 = BackwardToBlock2(weights, saved, loss(saved.logits)).second;
    const at::Tensor d_pooled1 = ConvolveReluPoolBackward(saved.block2, d_pooled2, weights[kConv2Weight]);
    return ConvolveReluPoolBackward(saved.block1, d_pooled1, weights[kConv1Weight]);
  }

  void DoWeightGradients(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss, TrainingPass*,
                         ParameterSet* gradients) const override {
    const Activations saved = Forward(weights, x);
    const at::Tensor d_logits = loss(saved.logits);
    const auto [d_hidden, d_pooled2] = BackwardToBlock2(weights, saved, d_logits);
    Store(gradients, kFc2Weight, at::mm(d_logits.t(), saved.hidden), at::sum(d_logits, at::IntArrayRef{0}));
    at::Tensor fc1 = AsRows((*gradients)[kFc1Weight]);
    at::mm_out(fc1, d_hidden.t(), AsRows(saved.block2.values));
    (*gradients)[kFc1Bias].copy_(at::sum(d_hidden, at::IntArrayRef{0}));

    const at::Tensor d_conv2 = ReluPoolBackward(saved.block2, d_pooled2);
    const auto [d_pooled1, w2, b2] = ConvolveBackward(d_conv2, saved.block1.values, weights[kConv2Weight], true, true);
    Store(gradients, kConv2Weight, w2, b2);
    const at::Tensor d_conv1 = ReluPoolBackward(saved.block1, d_pooled1);
    const auto [unused, w1, b1] = ConvolveBackward(d_conv1, x, weights[kConv1Weight], false, true);
    Store(gradients, kConv1Weight, w1, b1);
  }

  static void Store(ParameterSet* gradients, Index weight, const at::Tensor& d_weight, const at::Tensor& d_bias) {
    (*gradients)[weight].copy_(d_weight);
    (*gradients)[weight + 1].copy_(d_bias);
  }

  Activations Forward(const ParameterSet& weights, const at::Tensor& x) const {
    Activations out;
    out.block1 = ConvolveReluPool(x, weights[kConv1Weight], weights[kConv1Bias]);
    out.block2 = ConvolveReluPool(out.block1.values, weights[kConv2Weight], weights[kConv2Bias]);
    out.hidden = at::addmm(weights[kFc1Bias], AsRows(out.block2.values), AsRows(weights[kFc1Weight]).t()).relu_();
    out.logits = at::addmm(weights[kFc2Bias], out.hidden, weights[kFc2Weight].t());
    return out;
  }

  // Gradients with respect to fc1's output (before ReLU), [N, hidden], and to block 2's, [N, conv2, H/4, W/4].
  std::pair<at::Tensor, at::Tensor> BackwardToBlock2(const ParameterSet& weights, const Activations& saved,
                                                     const at::Tensor& d_logits) const {
    const at::Tensor d_hidden = at::threshold_backward(at::mm(d_logits, weights[kFc2Weight]), saved.hidden, 0);
    const at::Tensor& block2 = saved.block2.values;
    const at::Tensor rows = at::mm(d_hidden, AsRows(weights[kFc1Weight]));
    return {d_hidden, rows.as_strided(block2.sizes(), block2.strides())};
  }

  const SmallCnnShape shape_;
  std::vector<ParameterSpec> parameters_;
};

}  // namespace

std::unique_ptr<Model> MakeSmallCnn(const SmallCnnShape& shape) { return std::make_unique<SmallCnn>(shape); }

}  // namespace ham::trainer
