#include "worker/trainer/models/model.h"

#include <ATen/ops/add.h>
#include <ATen/ops/empty_strided.h>

namespace ham::trainer {

at::Tensor NewImages(int64_t rows, const ImageShape& shape, at::ScalarType type) {
  return at::empty_strided({rows, shape.channels, shape.height, shape.width},
                           {shape.size(), 1, shape.width * shape.channels, shape.channels}, type);
}

namespace {

// `loss` of the logits with the class bias.
LogitsGradient WithClassBias(const ParameterSet& weights, const LogitsGradient& loss) {
  return [&](const at::Tensor& logits) { return loss(at::add(logits, weights.class_bias())); };
}

}  // namespace

const std::string& OutputBias(const Model& model) {
  const std::vector<ParameterSpec>& specs = model.parameters();
  size_t last = specs.size();
  while (specs[last - 1].kind == ParameterKind::kStatistic || specs[last - 1].kind == ParameterKind::kClassBias) --last;
  return specs[last - 1].name;
}

at::Tensor Model::Logits(const ParameterSet& weights, const at::Tensor& x) const {
  return at::add(DoLogits(weights, x), weights.class_bias());
}

at::Tensor Model::InputGradient(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss,
                                TrainingPass* training) const {
  return DoInputGradient(weights, x, WithClassBias(weights, loss), training);
}

void Model::WeightGradients(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss,
                            TrainingPass* training, ParameterSet* gradients) const {
  DoWeightGradients(weights, x, WithClassBias(weights, loss), training, gradients);
}

}  // namespace ham::trainer
