// How fast this device multiplies matrices: what the speed of training is held against.
#pragma once

#include <ATen/core/TensorBody.h>

#include "worker/trainer/step_profile.h"

namespace ham::trainer {

// Floating-point operations a second, two a multiply-add, of products of square matrices of the type and on the device
// in `options`, with the threads that LibTorch now has: the quickest of some, as large as helps. Takes about 0.1 s on
// an idle device. Draws no random number. `clock`, with no mark untaken, is that device's. LibTorch's exceptions pass
// through.
double MeasureMatmulPeak(const at::TensorOptions& options, PhaseClock& clock);

}  // namespace ham::trainer
