#include "worker/trainer/models/autograd_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/autograd.h>

namespace ham::trainer {
namespace {

std::vector<at::Tensor> ValuesOf(const ParameterSet& weights) {
  std::vector<at::Tensor> out;
  for (size_t i = 0; i < weights.specs().size(); ++i) out.push_back(weights[i]);
  return out;
}

bool IsOfLayer(const ParameterSpec& spec) {
  return spec.kind == ParameterKind::kWeight || spec.kind == ParameterKind::kBias;
}

// Copies into tensors that may be of another type: on a device by few kernels, where pairs of like types stand
// together.
class Copies {
 public:
  void Add(const at::Tensor& from, const at::Tensor& to) {
    Lists& lists = from.scalar_type() == to.scalar_type() ? alike_ : converted_;
    lists.from.push_back(from);
    lists.to.push_back(to);
  }
  void Make() const {
    for (const Lists* const lists : {&alike_, &converted_}) {
      if (!lists->to.empty()) at::_foreach_copy_(lists->to, lists->from);
    }
  }

 private:
  struct Lists {
    std::vector<at::Tensor> from, to;
  };
  Lists alike_, converted_;
};

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
      : FrozenNetwork(model.normalization(), weights, model.ComputeType(weights)),
        model_(model),
        compute_(model.ComputeType(weights)) {
    for (size_t i = 0; i < model.trained_; ++i) {
      values_.push_back(at::empty_like(weights[i], IsOfLayer(model.parameters_[i]) ? compute_ : weights.type()));
    }
  }

 private:
  void DoRefresh(const ParameterSet& weights) override {
    Copies copies;
    for (size_t i = 0; i < values_.size(); ++i) {
      if (IsOfLayer(model_.parameters_[i])) copies.Add(weights[i], values_[i]);
    }
    copies.Make();
    FoldBatchNorms(weights, model_.trained_, model_.batch_norms_, &values_);
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
    const ForwardPass pass = ForwardPass::Frozen(values_, model_.trained_, model_.options_.activation, compute_);
    return model_.Forward(pass, x).to(x.scalar_type());
  }

  const AutogradModel& model_;
  const at::ScalarType compute_;
  std::vector<at::Tensor> values_;  // the trained parameters, layers' in compute_, BatchNorms' folded
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
  const at::ScalarType compute = ComputeType(weights);
  Copies rounded;
  for (size_t i = 0; i < trained_; ++i) {
    at::Tensor leaf = values[i].detach();
    if (IsOfLayer(parameters_[i]) && compute != weights.type()) {
      leaf = at::empty_like(leaf, compute);
      rounded.Add(values[i], leaf);
    }
    leaves.push_back(values[i] = leaf);
  }
  rounded.Make();
  for (at::Tensor& leaf : leaves) leaf.set_requires_grad(true);
  const at::Tensor logits = Run(values, x, training, compute);
  // Layers that are listed but not used have no gradient.
  const auto found = torch::autograd::grad({logits}, leaves, {loss(logits.detach())}, /*retain_graph=*/false,
                                           /*create_graph=*/false, /*allow_unused=*/true);
  Copies copies;
  for (size_t i = 0; i < trained_; ++i) {
    if (found[i].defined()) {
      copies.Add(found[i], (*gradients)[i]);
    } else {
      (*gradients)[i].zero_();
    }
  }
  copies.Make();
}

}  // namespace ham::trainer
