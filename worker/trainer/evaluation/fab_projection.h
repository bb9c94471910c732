// Nearest points of a hyperplane within the box of images: what FAB (Croce, Hein 2020) steps along.
//
// M: points, P: pixels of one, in [0, 1]. A hyperplane is given by its normal w and, for a point, by the excess there:
// what <w, .> has to fall by until the hyperplane is met. Stateless; safe from any thread.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// Writes into `move`, [P], the one of least norm for which point + move is in the box and on the hyperplane; where the
// box does not reach that, the one to the nearest corner. linf: all pixels move equally far, or as far as they can. A
// pixel whose w is 0 (l2: at most 1e-8, as in the authors' code) stays. No move if a number is not finite. Returns its
// norm. P >= 1.
template <typename T>  // float or double
double MoveOntoHyperplane(Norm norm, const T* w, double excess, const T* point, int64_t pixels, T* move);

// Those moves, [M, P], by LibTorch's operations, for points on a device; it is not waited for. w, points: [M, P];
// excess: [M]. One that takes more than 8 (linf) or 16 (l2) steps of Newton's method ends short of the hyperplane; on
// robust networks of MNIST and Fashion-MNIST none of 45,000 each did.
at::Tensor MovesOntoHyperplanes(Norm norm, const at::Tensor& w, const at::Tensor& excess, const at::Tensor& points);

// Of each row of [M, P]: [M, 1].
at::Tensor NormsOf(Norm norm, const at::Tensor& rows);

}  // namespace ham::trainer
