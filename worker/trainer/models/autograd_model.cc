#include "worker/trainer/models/autograd_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/autograd.h>

#include "worker/trainer/device.h"

namespace ham::trainer {
namespace {

std::vector<at::Tensor> ValuesOf(const ParameterSet& weights) {
  std::vector<at::Tensor> out;
  for (size_t i = 0; i < weights.specs().size(); ++i) out.push_back(weights[i]);
  return out;
}

// Of the loss behind `logits`, in the layout of x, which is `leaf` without gradient.
at::Tensor GradientOf(const at::Tensor& logits, const at::Tensor& leaf, const at::Tensor& x,
                      const LogitsGradient& loss) {
  const at::Tensor gradient = torch::autograd::grad({logits}, {leaf}, {loss(logits.detach())})[0];
  if (gradient.strides() == x.strides()) return gradient;
  at::Tensor out = NewImages(x.size(0), ShapeOf(x), x.options());
  out.copy_(gradient);
  return out;
}

}  // namespace

class AutogradModel::Frozen : public FrozenNetwork {
 public:
  Frozen(const AutogradModel& model, const ParameterSet& weights)
      : FrozenNetwork(model.normalization(), weights),
        model_(model),
        compute_(model.ComputeType(weights)),
        folds_(OnHost(weights.flat())) {
    for (size_t i = 0; i < (folds_ ? model.trained_ : weights.specs().size()); ++i) {
      values_.push_back(at::empty_like(weights[i], IsOfLayer(i) ? compute_ : weights.type()));
    }
  }

 private:
  bool IsOfLayer(size_t i) const {
    const ParameterKind kind = model_.parameters_[i].kind;
    return kind == ParameterKind::kWeight || kind == ParameterKind::kBias;
  }

  void DoRefresh(const ParameterSet& weights) override {
    if (!folds_) return at::_foreach_copy_(values_, ValuesOf(weights));
    for (size_t i = 0; i < values_.size(); ++i) {
      if (IsOfLayer(i)) values_[i].copy_(weights[i]);
    }
    for (const BatchNormLayer& layer : model_.batch_norms_) FoldBatchNorm(weights, model_.trained_, layer, &values_);
  }

  at::Tensor DoInputGradient(const at::Tensor& x, const LogitsGradient& loss) const override {
    const at::Tensor leaf = x.detach().set_requires_grad(true);
    return GradientOf(Run(leaf), leaf, x, loss);
  }

  at::Tensor DoLogits(const at::Tensor& x) const override {
    const at::NoGradGuard no_gradients;
    return Run(x);
  }

  at::Tensor Run(const at::Tensor& x) const {
    const Activation activation = model_.options_.activation;
    const ForwardPass pass = folds_ ? ForwardPass::Frozen(values_, model_.trained_, activation, compute_)
                                    : ForwardPass(values_, model_.trained_, nullptr, activation, compute_);
    return model_.Forward(pass, x).to(x.scalar_type());
  }

  const AutogradModel& model_;
  const at::ScalarType compute_;
  // BatchNorm into a scale and a shift: on a host, whose loops make one pass of these and of ReLU.
  const bool folds_;
  std::vector<at::Tensor> values_;  // the parameters, layers' in compute_; the trained ones alone where they are folded
};

std::unique_ptr<FrozenNetwork> AutogradModel::DoFreeze(const ParameterSet& weights) const {
  return std::make_unique<Frozen>(*this, weights);
}

ModelFlops AutogradModel::flops() const {
  const at::TensorOptions nowhere = at::TensorOptions(at::kFloat).device(at::kMeta);
  std::vector<at::Tensor> values;
  for (const ParameterSpec& spec : parameters_) values.push_back(at::empty(spec.compute_shape, nowhere));
  const ImageShape& image = options_.image;
  ModelFlops out;
  Forward(ForwardPass::Counting(values, &out), at::empty({1, image.channels, image.height, image.width}, nowhere));
  return out;
}

at::Tensor AutogradModel::Run(const std::vector<at::Tensor>& values, const at::Tensor& x, TrainingPass* training,
                              at::ScalarType compute) const {
  const ForwardPass pass(values, trained_, training, options_.activation, compute);
  return Forward(pass, x).to(x.scalar_type());
}

at::Tensor AutogradModel::DoLogits(const ParameterSet& weights, const at::Tensor& x) const {
  const at::NoGradGuard no_gradients;
  return Run(ValuesOf(weights), x, nullptr, weights.type());
}

at::Tensor AutogradModel::DoInputGradient(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss,
                                          TrainingPass* training) const {
  const at::Tensor leaf = x.detach().set_requires_grad(true);
  const at::Tensor logits = Run(ValuesOf(weights), leaf, training, ComputeType(weights));
  return GradientOf(logits, leaf, x, loss);
}

void AutogradModel::DoWeightGradients(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss,
                                      TrainingPass* training, ParameterSet* gradients) const {
  std::vector<at::Tensor> values = ValuesOf(weights);
  std::vector<at::Tensor> leaves;
  for (size_t i = 0; i < trained_; ++i) leaves.push_back(values[i] = values[i].detach().set_requires_grad(true));
  const at::Tensor logits = Run(values, x, training, ComputeType(weights));
  // Layers that are listed but not used have no gradient.
  const auto found = torch::autograd::grad({logits}, leaves, {loss(logits.detach())}, /*retain_graph=*/false,
                                           /*create_graph=*/false, /*allow_unused=*/true);
  for (size_t i = 0; i < trained_; ++i) {
    if (found[i].defined()) {
      (*gradients)[i].copy_(found[i]);
    } else {
      (*gradients)[i].zero_();
    }
  }
}

}  // namespace ham::trainer
