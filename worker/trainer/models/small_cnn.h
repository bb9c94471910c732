// conv 3x3 pad 1, ReLU, 2x2 max-pool; the same again; fully connected, ReLU; fully connected.
//
// Names as in PyTorch: conv1, conv2, fc1, fc2, each with weight and bias. The backward pass is written out
// rather than left to autograd: on a CPU the attack, which is nine tenths of the work, is then 1.4 times as fast.
#pragma once

#include <memory>
#include <optional>

#include "worker/trainer/models/model.h"

namespace ham::trainer {

struct SmallCnnShape {
  ImageShape image;  // height and width are multiples of 4
  int64_t conv1 = 16;
  int64_t conv2 = 32;
  int64_t hidden = 128;
  int64_t classes = 10;
  std::optional<Normalization> normalization = {};
  at::ScalarType compute = at::kFloat;  // as ModelOptions::compute; on a CPU conv1 is computed in the weights' type
};

std::unique_ptr<Model> MakeSmallCnn(const SmallCnnShape& shape);

}  // namespace ham::trainer
