// BatchNormOfBatch (batch_norm.h) in LibTorch's operations, for tensors on a GPU.
#pragma once

#include <ATen/core/Tensor.h>

#include "worker/trainer/models/model.h"

namespace ham::trainer::device {

// x may be of a lower precision than scale and shift; the result is of x's type. Waits for the device only where this
// rank has no row, and must know whether another has.
at::Tensor BatchNormOfBatch(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, TrainingPass* pass,
                            at::Tensor mean, at::Tensor variance);

}  // namespace ham::trainer::device
