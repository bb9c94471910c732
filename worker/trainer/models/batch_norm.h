// BatchNorm over the true rows of a batch, on one rank or over all of them.
#pragma once

#include <ATen/core/Tensor.h>

#include "worker/trainer/models/model.h"

namespace ham::trainer {

inline constexpr double kBatchNormEpsilon = 1e-5;  // PyTorch's default
inline constexpr double kBatchNormMomentum = 0.1;  // likewise: weight of the batch in the running statistics

// Training mode, with gradients for x, scale and shift by autograd. Sums are taken in float64 over fixed blocks of
// rows, so that they do not depend on the number of threads.
//   x             [N, C, H, W], channels_last; on a device perhaps of a lower precision, as is the result then
//   scale, shift  [C]
//   mean, variance of the batch (the variance unbiased) are written, without gradient: [C]
// After an error, which stands in pass->status, the result means nothing.
at::Tensor BatchNormOfBatch(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, TrainingPass* pass,
                            at::Tensor mean, at::Tensor variance);

// running <- (1 - momentum) running + momentum * that of the batch, for all running statistics.
void UpdateStatistics(const ParameterSet& batch, ParameterSet* weights);

}  // namespace ham::trainer
