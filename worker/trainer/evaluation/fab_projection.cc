#include "worker/trainer/evaluation/fab_projection.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/ge.h>
#include <ATen/ops/gt.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/lt.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/neg.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "worker/trainer/evaluation/pixel_loop.h"

namespace ham::trainer {
namespace {

// The move is one number, its scale: a pixel goes scale * speed, with speed 1 (linf) or |w| (l2), or to the end of its
// room if that is nearer. What <w, .> falls by is a concave function of the scale, straight between the scales at which
// pixels reach their ends. So Newton's method from 0 climbs to the solution without passing it, and is there as soon
// as no further pixel has reached its end.

constexpr double kSmallestL2Slope = 1e-8;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int kLinfStepsOnDevice = 8, kL2StepsOnDevice = 16;

template <Norm kNorm, typename T>
T Speed(T slope) {
  return kNorm == Norm::kL2 ? slope : T{1};
}

// Of <w, .>: what pixels at their ends have brought, and what the others bring for each unit of the scale.
struct Fall {
  double ended = 0;
  double rate = 0;
};

template <Norm kNorm, typename T>
Fall FallAt(T scale, const T* w, const T* room, int64_t pixels) {
  T ended[kLanes] = {}, rate[kLanes] = {};
  ForEachPixel(pixels, [&](int64_t i, int lane) {
    const T slope = std::abs(w[i]), speed = Speed<kNorm>(slope);
    const T moves = static_cast<T>(scale * speed < room[i]);
    ended[lane] += slope * room[i] * (T{1} - moves);
    rate[lane] += slope * speed * moves;
  });
  return {SumOf(ended), SumOf(rate)};
}

// NaN if a number is not finite.
template <Norm kNorm, typename T>
T FindScale(double excess, const T* w, const T* room, int64_t pixels) {
  T scale = 0;
  while (true) {
    const Fall fall = FallAt<kNorm>(scale, w, room, pixels);
    if (!std::isfinite(excess + fall.ended + fall.rate)) return std::numeric_limits<T>::quiet_NaN();
    const T next = static_cast<T>(fall.rate > 0 ? (excess - fall.ended) / fall.rate : kInfinity);
    if (!(next > scale)) return scale;
    scale = next;
    if (std::isinf(scale)) return scale;
  }
}

template <Norm kNorm, typename T>
double Move(const T* w, double excess, const T* point, int64_t pixels, T* move) {
  constexpr T kSmallest = kNorm == Norm::kL2 ? static_cast<T>(kSmallestL2Slope) : T{0};
  const T direction = excess >= 0 ? 1 : -1;
  ForEachPixel(pixels, [&](int64_t i, int) {
    const T up = T{1} - point[i];
    const T room = direction * w[i] > 0 ? point[i] : up;
    move[i] = room * static_cast<T>(!(std::abs(w[i]) <= kSmallest));
  });
  const T scale = FindScale<kNorm>(std::abs(excess), w, move, pixels);
  if (std::isnan(scale)) {
    std::fill_n(move, pixels, T{0});
    return 0;
  }
  T norms[kLanes] = {};
  ForEachPixel(pixels, [&](int64_t i, int lane) {
    const T wanted = scale * Speed<kNorm>(std::abs(w[i]));
    const T distance = wanted < move[i] ? wanted : move[i];
    if constexpr (kNorm == Norm::kL2) {
      norms[lane] += distance * distance;
    } else {
      norms[lane] = norms[lane] < distance ? distance : norms[lane];
    }
    move[i] = direction * w[i] > 0 ? -distance : distance;
  });
  return kNorm == Norm::kL2 ? std::sqrt(SumOf(norms)) : *std::max_element(norms, norms + kLanes);
}

at::Tensor SumOfRows(const at::Tensor& rows) { return at::sum(rows, {1}, /*keepdim=*/true); }

}  // namespace

template <typename T>
double MoveOntoHyperplane(Norm norm, const T* w, double excess, const T* point, int64_t pixels, T* move) {
  return norm == Norm::kL2 ? Move<Norm::kL2>(w, excess, point, pixels, move)
                           : Move<Norm::kLinf>(w, excess, point, pixels, move);
}
template double MoveOntoHyperplane(Norm, const float*, double, const float*, int64_t, float*);
template double MoveOntoHyperplane(Norm, const double*, double, const double*, int64_t, double*);

at::Tensor NormsOf(Norm norm, const at::Tensor& rows) {
  return norm == Norm::kL2 ? at::linalg_vector_norm(rows, 2, at::OptionalIntArrayRef(1), /*keepdim=*/true)
                           : at::amax(at::abs(rows), {1}, /*keepdim=*/true);
}

at::Tensor MovesOntoHyperplanes(Norm norm, const at::Tensor& w, const at::Tensor& excess, const at::Tensor& points) {
  const at::Tensor zero = at::zeros({}, w.options());
  const at::Tensor beyond = excess.unsqueeze(1), target = at::abs(beyond), slope = at::abs(w);
  const at::Tensor speed = norm == Norm::kL2 ? slope : at::ones({}, w.options());
  const at::Tensor down = at::eq(w > 0, beyond >= 0);
  const at::Tensor stays = slope <= (norm == Norm::kL2 ? kSmallestL2Slope : 0);
  const at::Tensor room = at::where(stays, zero, at::where(down, points, 1 - points));
  const at::Tensor brings = slope * room, rate = slope * speed;
  at::Tensor scale = at::zeros_like(target);
  for (int step = norm == Norm::kL2 ? kL2StepsOnDevice : kLinfStepsOnDevice; step > 0; --step) {
    const at::Tensor moves = scale * speed < room;
    const at::Tensor ended = SumOfRows(at::where(moves, zero, brings)), rates = SumOfRows(at::where(moves, rate, zero));
    scale = at::where(rates > 0, at::maximum(scale, (target - ended) / rates), kInfinity);
  }
  const at::Tensor wanted = scale * speed;
  const at::Tensor distance = at::where(wanted < room, wanted, room);
  const at::Tensor finite = (target + SumOfRows(brings + rate)) * 0 == 0;
  return at::where(finite, at::where(down, -distance, distance), zero);
}

}  // namespace ham::trainer
