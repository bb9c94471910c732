// What the precision that a spec names means for tensors, and what it needs of a GPU.
#pragma once

#include <string>

#include <ATen/core/TensorBody.h>

#include "absl/status/status.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

struct NumberTypes {
  at::ScalarType weights;  // of images, gradients and the optimizer's state too
  at::ScalarType layers;   // what convolutions and linear layers are computed in
  bool tf32;               // whether these may round their float32 inputs to TF32
};
NumberTypes TypesOf(Precision precision);

// FailedPrecondition where the GPU of that name has no such numbers: another worker's may. compute_capability: 90 for
// "9.0".
absl::Status CheckPrecision(Precision precision, const std::string& gpu, int compute_capability);

}  // namespace ham::trainer
