// ReLU and 2x2 max-pool in one pass over channels_last images, forward and backward, also with the convolution before.
//
// Equal to max_pool2d(relu(x)), gradients included: of equal maxima the first in row order takes the gradient,
// and a window whose maximum is not above 0 passes none. A row's result does not depend on the rows beside it.
// On a CPU these are loops of our own over float32 or float64; bfloat16 is widened for them, but for the convolution
// itself, which is LibTorch's then. Elsewhere they are LibTorch's operations (namespace device).
#pragma once

#include <ATen/core/Tensor.h>

namespace ham::trainer {

struct ReluPooled {
  at::Tensor values;  // [N, C, H/2, W/2] of the type of x, real channels_last strides
  // The same shape and layout, uint8: 0 to 3, which pixel of the window; 4 if none (ReLU cut it). On a device, int64:
  // LibTorch's number of the pixel in the image.
  at::Tensor source;
};

// x: [N, C, H, W] with strides {CHW, 1, WC, C}; H and W even.
ReluPooled ReluPool(const at::Tensor& x);

// gradient: with respect to pooled.values, in its shape and layout -> with respect to x.
at::Tensor ReluPoolBackward(const ReluPooled& pooled, const at::Tensor& gradient);

// ReluPool of the convolution of x with 3x3 kernels, padding 1.
//   weight  [O, C, 3, 3], strides {9C, 1, 3C, C};  bias  [O]
ReluPooled ConvolveReluPool(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

// gradient: with respect to pooled.values -> with respect to x, in the layout of x. Three of four gradients at the
// convolution's output are 0 then; those are left out.
at::Tensor ConvolveReluPoolBackward(const ReluPooled& pooled, const at::Tensor& gradient, const at::Tensor& weight);

namespace device {

ReluPooled ReluPool(const at::Tensor& x);
at::Tensor ReluPoolBackward(const ReluPooled& pooled, const at::Tensor& gradient);
ReluPooled ConvolveReluPool(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
at::Tensor ConvolveReluPoolBackward(const ReluPooled& pooled, const at::Tensor& gradient, const at::Tensor& weight);

}  // namespace device

}  // namespace ham::trainer
