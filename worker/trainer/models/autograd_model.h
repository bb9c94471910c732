// A Model written as one forward function; autograd takes the gradients.
#pragma once

#include <memory>
#include <vector>

#include "worker/trainer/models/layers.h"
#include "worker/trainer/models/model.h"

namespace ham::trainer {

class AutogradModel : public Model {
  class Frozen;

 public:
  const std::vector<ParameterSpec>& parameters() const final { return parameters_; }
  const ImageShape& image_shape() const final { return options_.image; }
  int64_t classes() const final { return options_.classes; }
  ModelFlops flops() const final;

 protected:
  explicit AutogradModel(const ModelOptions& options) : Model(options.normalization), options_(options) {}
  // Called once, at the end of the constructor of the model.
  void SetLayers(const LayerList& layers) {
    parameters_ = layers.Specs(options_.classes);
    trained_ = layers.trained();
    batch_norms_ = layers.batch_norms();
  }

  // x: normalised images -> logits.
  virtual at::Tensor Forward(const ForwardPass& pass, at::Tensor x) const = 0;

 private:
  at::Tensor DoLogits(const ParameterSet& weights, const at::Tensor& x) const final;
  at::Tensor DoInputGradient(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss,
                             TrainingPass* training) const final;
  void DoWeightGradients(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss,
                         TrainingPass* training, ParameterSet* gradients) const final;
  std::unique_ptr<FrozenNetwork> DoFreeze(const ParameterSet& weights) const final;
  at::Tensor Run(const std::vector<at::Tensor>& values, const at::Tensor& x, TrainingPass* training,
                 at::ScalarType compute) const;

  at::ScalarType ComputeType(const ParameterSet& weights) const {
    return weights.type() == at::kDouble ? at::kDouble : options_.compute;
  }

  const ModelOptions options_;
  std::vector<ParameterSpec> parameters_;
  size_t trained_ = 0;
  std::vector<BatchNormLayer> batch_norms_;
};

}  // namespace ham::trainer
