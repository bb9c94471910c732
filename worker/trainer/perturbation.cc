#include "worker/trainer/perturbation.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/all.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/ge.h>
#include <ATen/ops/le.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/logical_not.h>

#include "worker/trainer/device.h"

namespace ham::trainer {
namespace {

constexpr float kNormalStart = 0.001f;
constexpr double kSlack = 1e-6, kRelativeSlack = 1e-5;

template <typename T>
double Length(const T* values, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(values[i]) * values[i];
  return std::sqrt(sum);
}

void MoveIntoBall(const Ball& ball, std::vector<float>* noise) {
  const float radius = static_cast<float>(ball.radius);
  if (ball.norm == Norm::kLinf) {
    for (float& value : *noise) value = std::clamp(value, -radius, radius);
    return;
  }
  const double length = Length(noise->data(), static_cast<int64_t>(noise->size()));
  if (length <= ball.radius) return;
  for (float& value : *noise) value *= static_cast<float>(ball.radius / length);
}

// Uniform in the L2 ball: the first `pixels` coordinates of a point uniform on the sphere with two dimensions more.
void FillL2Ball(const RandomKey& key, double radius, int64_t pixels, std::vector<float>* noise) {
  noise->resize(pixels + 2);
  FillNormal(key, 1, pixels + 2, noise->data());
  const double length = Length(noise->data(), pixels + 2);
  noise->resize(pixels);
  for (float& value : *noise) value *= static_cast<float>(radius / length);
}

// Of one image.
void FillNoise(const Ball& ball, StartDistribution distribution, const RandomKey& key, std::vector<float>* noise) {
  const auto pixels = static_cast<int64_t>(noise->size());
  const float radius = static_cast<float>(ball.radius);
  if (distribution == StartDistribution::kNormal) {
    FillNormal(key, kNormalStart, pixels, noise->data());
    MoveIntoBall(ball, noise);
  } else if (ball.norm == Norm::kL2) {
    FillL2Ball(key, ball.radius, pixels, noise);
  } else {
    FillUniform(key, -radius, radius, pixels, noise->data());
  }
}

// visit(noise), row by row.
template <typename Visit>
void ForEachNoise(const std::vector<uint32_t>& ids, const ImageShape& image, const Ball& ball, RandomKey key,
                  StartDistribution distribution, const Visit& visit) {
  std::vector<float> noise(image.channels * image.height * image.width);
  for (const uint32_t id : ids) {
    key.sample = id;
    FillNoise(ball, distribution, key, &noise);
    visit(noise);
  }
}

template <typename T>
void LinfStep(const T* clean, const T* gradient, int64_t count, T radius, T step_size, T* x) {
  for (int64_t i = 0; i < count; ++i) {
    const T sign = static_cast<T>(gradient[i] > 0) - static_cast<T>(gradient[i] < 0);
    const T low = clean[i] - radius, high = clean[i] + radius;
    T moved = x[i] + step_size * sign;
    moved = moved < low ? low : moved;
    moved = moved > high ? high : moved;
    moved = moved < T{0} ? T{0} : moved;
    x[i] = moved > T{1} ? T{1} : moved;
  }
}

// Of one image. Clipping to [0, 1] brings every pixel nearer to the clean one, so the point stays in the ball.
template <typename T>
void L2Step(const T* clean, const T* gradient, int64_t pixels, double radius, double step_size, T* x) {
  const double slope = Length(gradient, pixels);
  const bool moves = slope > 0 && std::isfinite(slope);
  for (int64_t i = 0; i < pixels; ++i) {
    const double step = moves ? step_size * (gradient[i] / slope) : 0;
    x[i] = static_cast<T>(x[i] + step - clean[i]);
  }
  const double length = Length(x, pixels);
  const T shrink = static_cast<T>(length > radius ? radius / length : 1);
  for (int64_t i = 0; i < pixels; ++i) x[i] = std::clamp(clean[i] + shrink * x[i], T{0}, T{1});
}

}  // namespace

at::Tensor RandomStart(const Batch& batch, const Ball& ball, RandomKey key, StartDistribution distribution) {
  const ImageShape image = ShapeOf(batch.x);
  if (!OnHost(batch.x)) return StartFrom(batch.x, StartNoise(batch.ids, image, ball, key, distribution));
  at::Tensor out = batch.x.clone();
  VisitReal(out.scalar_type(), [&]<typename T>(T) {
    T* to = out.data_ptr<T>();
    ForEachNoise(batch.ids, image, ball, key, distribution, [&](const std::vector<float>& noise) {
      for (size_t i = 0; i < noise.size(); ++i) to[i] = std::clamp(to[i] + noise[i], T{0}, T{1});
      to += noise.size();
    });
  });
  return out;
}

at::Tensor StartNoise(const std::vector<uint32_t>& ids, const ImageShape& image, const Ball& ball, RandomKey key,
                      StartDistribution distribution) {
  at::Tensor out = NewImages(static_cast<int64_t>(ids.size()), image);
  float* to = out.data_ptr<float>();
  ForEachNoise(ids, image, ball, key, distribution,
               [&](const std::vector<float>& noise) { to = std::copy(noise.begin(), noise.end(), to); });
  return out;
}

at::Tensor StartFrom(const at::Tensor& x, const at::Tensor& noise) {
  return x.clone().add_(ToDevice(noise, x.device())).clamp_(0, 1);
}

at::Tensor OutsideBall(const Ball& ball, const at::Tensor& clean, const at::Tensor& x) {
  const at::Tensor moved = AsRows(x - clean);
  const at::Tensor distance = ball.norm == Norm::kLinf ? at::amax(at::abs(moved), {1})
                                                       : at::linalg_vector_norm(moved, 2, at::OptionalIntArrayRef({1}));
  const at::Tensor within = at::le(distance, ball.radius * (1 + kRelativeSlack) + kSlack);
  // A pixel that is NaN is in no range.
  const at::Tensor in_range = at::bitwise_and(at::ge(AsRows(x), -kSlack), at::le(AsRows(x), 1 + kSlack));
  return ToHost(at::logical_not(at::bitwise_and(within, at::all(in_range, 1))));
}

template <typename T>
void ProjectedStep(const Ball& ball, double step_size, const T* clean, const T* gradient, int64_t rows, int64_t pixels,
                   T* x) {
  if (ball.norm == Norm::kLinf) {
    LinfStep(clean, gradient, rows * pixels, static_cast<T>(ball.radius), static_cast<T>(step_size), x);
    return;
  }
  for (int64_t i = 0; i < rows * pixels; i += pixels) {
    L2Step(clean + i, gradient + i, pixels, ball.radius, step_size, x + i);
  }
}
template void ProjectedStep(const Ball&, double, const float*, const float*, int64_t, int64_t, float*);
template void ProjectedStep(const Ball&, double, const double*, const double*, int64_t, int64_t, double*);

}  // namespace ham::trainer
