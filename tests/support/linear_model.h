// logits = A x + b: a network whose nearest boundaries are known.
#pragma once

#include <memory>

#include "worker/trainer/models/autograd_model.h"

namespace ham::testing {

class LinearModel final : public trainer::AutogradModel {
 public:
  explicit LinearModel(const trainer::ModelOptions& options) : AutogradModel(options) {
    trainer::LayerList layers;
    layer_ = layers.LinearOfImage("0", options.image, options.classes);
    SetLayers(layers);
  }

 private:
  at::Tensor Forward(const trainer::ForwardPass& pass, at::Tensor x) const override { return pass.Linear(x, layer_); }

  trainer::LinearLayer layer_;
};

}  // namespace ham::testing
