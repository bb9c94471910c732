// What an attack may do to an image: the ball around it, points and steps in it.
//
// Pixels are in [0, 1]. All functions are stateless; safe from any thread.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/trainer/batch.h"
#include "worker/trainer/counter_rng.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// The images no further than `radius` from one.
struct Ball {
  Norm norm = Norm::kLinf;
  double radius = 0;
};

// clip01(x + u), u a function of (seed, purpose, epoch, id, step, pixel): uniform in the ball, or normal with standard
// deviation 0.001 (kNormal; as TRADES' code), moved to the ball where it lies outside. `key.sample` is ignored. Pixels
// are numbered in channels_last order.
at::Tensor RandomStart(const Batch& batch, const Ball& ball, RandomKey key,
                       StartDistribution distribution = StartDistribution::kUniform);
// Its u for these rows: float32 images on the host.
at::Tensor StartNoise(const std::vector<uint32_t>& ids, const ImageShape& image, const Ball& ball, RandomKey key,
                      StartDistribution distribution = StartDistribution::kUniform);
// Of that, what RandomStart() is where images lie on a device: clip01(x + noise), made there.
at::Tensor StartFrom(const at::Tensor& x, const at::Tensor& noise);

// [N] bool on the host: the images x that lie outside [0, 1], or further from `clean` than the ball's radius, by more
// than rounding: 1e-6 and a hundred thousandth of the radius.
at::Tensor OutsideBall(const Ball& ball, const at::Tensor& clean, const at::Tensor& x);

// One step of projected gradient ascent on `rows` images of `pixels` numbers each; `clean` and `x` are in [0, 1].
//   linf   x <- clip01(clip(x + step_size * sign(g), clean - radius, clean + radius)); sign(0) = 0
//   l2     d = x + step_size * g / |g|_2 - clean;  x <- clip01(clean + d * min(1, radius / |d|_2));
//          no step where |g|_2 is 0 or not finite
template <typename T>  // float or double
void ProjectedStep(const Ball& ball, double step_size, const T* clean, const T* gradient, int64_t rows, int64_t pixels,
                   T* x);

}  // namespace ham::trainer
