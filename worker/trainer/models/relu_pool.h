// ReLU and 2x2 max-pool in one pass over channels_last images, forward and backward.
//
// Equal to max_pool2d(relu(x)), gradients included: of equal maxima the first in row order takes the gradient,
// and a window whose maximum is not above 0 passes none.
#pragma once

#include <ATen/core/Tensor.h>

namespace ham::trainer {

struct ReluPooled {
  at::Tensor values;  // [N, C, H/2, W/2] of the type of x, real channels_last strides
  at::Tensor source;  // the same shape and layout, uint8: 0 to 3, which pixel of the window; 4 if none (ReLU cut it)
};

// x: [N, C, H, W] float32 or float64 with strides {CHW, 1, WC, C}; H and W even.
ReluPooled ReluPool(const at::Tensor& x);

// gradient: with respect to pooled.values, in its shape and layout -> with respect to x.
at::Tensor ReluPoolBackward(const ReluPooled& pooled, const at::Tensor& gradient);

}  // namespace ham::trainer
