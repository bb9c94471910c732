// BatchNormOfBatch (batch_norm.h) for tensors on a GPU (channel_ops.h), with what stands before and behind it.
#pragma once

#include <ATen/core/Tensor.h>

#include "worker/trainer/models/model.h"

namespace ham::trainer::device {

struct NormalizedBatch {
  at::Tensor sum;  // x + added; x where `added` is undefined
  at::Tensor y;    // that normalised, and cut at 0 where relu
};
// x may be of a lower precision than scale and shift, as is the result then; added: as x, or undefined. Waits for the
// device only where this rank has no row, and must know whether another has.
NormalizedBatch BatchNormOfBatch(const at::Tensor& x, const at::Tensor& added, const at::Tensor& scale,
                                 const at::Tensor& shift, bool relu, TrainingPass* pass, at::Tensor mean,
                                 at::Tensor variance);

}  // namespace ham::trainer::device
