// A number a channel times the image, plus another, and ReLU: what is left of a BatchNorm whose statistics stand still.
#pragma once

#include <ATen/core/Tensor.h>

namespace ham::trainer {

// x * scale + shift, cut at 0 where `relu`; with a gradient for x alone by autograd.
//   x             [N, C, H, W], channels_last; float32, float64 or bfloat16, as is the result
//   scale, shift  [C] float32, or float64 beside such an x
// One pass over x, forward and backward, on a CPU and by kernels on a GPU (channel_ops.h).
at::Tensor ScaleAndShift(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, bool relu);

// The same of a sum of two, with gradients for both; the sum too is a result. On a GPU still one pass.
struct Shifted {
  at::Tensor sum, y;
};
Shifted AddScaleAndShift(const at::Tensor& x, const at::Tensor& added, const at::Tensor& scale, const at::Tensor& shift,
                         bool relu);

}  // namespace ham::trainer
