#include "worker/trainer/models/autograd_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

namespace ham::trainer {
namespace {

std::vector<at::Tensor> ValuesOf(const ParameterSet& weights) {
  std::vector<at::Tensor> out;
  for (size_t i = 0; i < weights.specs().size(); ++i) out.push_back(weights[i]);
  return out;
}

}  // namespace

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
  const at::Tensor gradient = torch::autograd::grad({logits}, {leaf}, {loss(logits.detach())})[0];
  if (gradient.strides() == x.strides()) return gradient;
  at::Tensor out = NewImages(x.size(0), options_.image, x.options());
  out.copy_(gradient);
  return out;
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
