#include "worker/trainer/evaluation/apgd.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/bitwise_or.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ge.h>
#include <ATen/ops/gt.h>
#include <ATen/ops/le.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/logical_not.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sign.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "worker/trainer/device.h"
#include "worker/trainer/models/parameter_set.h"

namespace ham::trainer {
namespace {

constexpr double kMomentum = 0.25;
constexpr double kRaisedShare = 0.75;
constexpr double kTiny = 1e-12;  // keeps a length of 0 from dividing

// Of one image; `T` arithmetic in the order of the reference, so that iterates are those of it to the last bits.
template <typename T>
void LinfMomentumStep(const T* clean, const T* gradient, const T* previous, int64_t count, T radius, T step_size,
                      T weight, const T* x, T* out) {
  const T rest = T{1} - weight;
  for (int64_t i = 0; i < count; ++i) {
    const T low = std::max(clean[i] - radius, T{0}), high = std::min(clean[i] + radius, T{1});
    const T sign = static_cast<T>(gradient[i] > 0) - static_cast<T>(gradient[i] < 0);
    const T z = std::min(std::max(x[i] + step_size * sign, low), high);
    const T moved = x[i] + (z - x[i]) * weight + (x[i] - previous[i]) * rest;
    out[i] = std::min(std::max(moved, low), high);
  }
}

template <typename T>
at::Tensor LinfStepOnHost(double radius, const at::Tensor& clean, const ApgdPoint& point, const at::Tensor& step_size,
                          double weight) {
  at::Tensor out = NewImages(clean.size(0), ShapeOf(clean), clean.options());
  const int64_t pixels = clean.numel() / clean.size(0);
  for (int64_t row = 0; row < clean.size(0); ++row) {
    const int64_t at = row * pixels;
    LinfMomentumStep<T>(clean.const_data_ptr<T>() + at, point.gradient.const_data_ptr<T>() + at,
                        point.previous.const_data_ptr<T>() + at, pixels, static_cast<T>(radius),
                        step_size.const_data_ptr<T>()[row], static_cast<T>(weight), point.x.const_data_ptr<T>() + at,
                        out.data_ptr<T>() + at);
  }
  return out;
}

// [N] numbers beside images.
at::Tensor BesideImages(const at::Tensor& numbers) { return numbers.view({-1, 1, 1, 1}); }

at::Tensor Lengths(const at::Tensor& images) {
  return at::linalg_vector_norm(images, 2, at::OptionalIntArrayRef({1, 2, 3}), /*keepdim=*/true);
}

at::Tensor ProjectL2(double radius, const at::Tensor& clean, const at::Tensor& x) {
  const at::Tensor away = x - clean, length = Lengths(away);
  return (clean + away / (length + kTiny) * at::clamp(length, c10::nullopt, radius)).clamp_(0, 1);
}

}  // namespace

at::Tensor ApgdStart(const AttackedRows& rows) {
  const at::Tensor& clean = rows.batch.x;
  const bool linf = rows.ball.norm == Norm::kLinf;
  const int64_t pixels = clean.numel() / clean.size(0);
  at::Tensor noise = NewImages(clean.size(0), ShapeOf(clean));
  float* to = noise.data_ptr<float>();
  RandomKey key = rows.key;
  for (const uint32_t id : rows.batch.ids) {
    key.sample = id;
    if (linf) {
      FillUniform(key, -1, 1, pixels, to);
    } else {
      FillNormal(key, 1, pixels, to);
    }
    double length = 0;
    for (int64_t i = 0; i < pixels; ++i) {
      length = linf ? std::max(length, std::abs(double{to[i]})) : length + double{to[i]} * to[i];
    }
    if (!linf) length = std::sqrt(length);
    for (int64_t i = 0; i < pixels; ++i) to[i] = static_cast<float>(to[i] * rows.ball.radius / (length + kTiny));
    to += pixels;
  }
  at::Tensor start = NewImages(clean.size(0), ShapeOf(clean), clean.options());
  start.copy_(noise);
  return start.add_(clean).clamp_(0, 1);
}

at::Tensor ApgdStep(const Ball& ball, const at::Tensor& clean, const ApgdPoint& point, const at::Tensor& step_size,
                    double weight) {
  if (ball.norm == Norm::kLinf && OnHost(clean)) {
    return VisitReal(clean.scalar_type(),
                     [&]<typename T>(T) { return LinfStepOnHost<T>(ball.radius, clean, point, step_size, weight); });
  }
  const at::Tensor& x = point.x;
  const auto moved = [&](const at::Tensor& z) { return x + (z - x) * weight + (x - point.previous) * (1 - weight); };
  at::Tensor out = NewImages(clean.size(0), ShapeOf(clean), clean.options());
  if (ball.norm == Norm::kLinf) {
    const at::Tensor low = (clean - ball.radius).clamp_min_(0), high = (clean + ball.radius).clamp_max_(1);
    out.copy_(moved((x + BesideImages(step_size) * at::sign(point.gradient)).clamp_(low, high)).clamp_(low, high));
    return out;
  }
  const at::Tensor& g = point.gradient;
  const at::Tensor z = ProjectL2(ball.radius, clean, x + BesideImages(step_size) * (g / (Lengths(g) + kTiny)));
  out.copy_(ProjectL2(ball.radius, clean, moved(z)));
  return out;
}

ApgdSchedule::ApgdSchedule(int steps, const at::Tensor& best_loss)
    : shorter_(std::max(3 * steps / 100, 1)),
      shortest_(std::max(6 * steps / 100, 1)),
      between_(std::max(22 * steps / 100, 1)),
      last_loss_(at::zeros_like(best_loss)),  // not that of the start: as the authors' code
      risen_(at::zeros_like(best_loss)),
      best_then_(best_loss.clone()),
      halved_then_(at::ones_like(best_loss, at::kBool)) {}

bool ApgdSchedule::Count(const at::Tensor& loss) {
  risen_.add_(at::gt(loss, last_loss_));
  last_loss_.copy_(loss);
  return ++counted_ == between_;
}

at::Tensor ApgdSchedule::Halve(const at::Tensor& best_loss) {
  const at::Tensor oscillates = at::le(risen_, between_ * kRaisedShare);
  const at::Tensor stands = at::bitwise_and(at::logical_not(halved_then_), at::ge(best_then_, best_loss));
  halved_then_ = at::bitwise_or(oscillates, stands);
  best_then_.copy_(best_loss);
  risen_.zero_();
  counted_ = 0;
  between_ = std::max(between_ - shorter_, shortest_);
  return halved_then_;
}

void ApgdSchedule::Keep(const std::vector<uint8_t>& keep) {
  for (at::Tensor* const tensor : {&last_loss_, &risen_, &best_then_, &halved_then_}) {
    *tensor = SelectRows(*tensor, keep);
  }
}

Apgd::Apgd(NetworkPasses& passes, const AttackedRows& rows, AttackLoss loss, int steps, const at::Tensor& start)
    : passes_(passes),
      rows_(rows),
      loss_(loss),
      steps_(steps),
      point_{start, start, {}},
      step_size_(at::full({start.size(0)}, 2 * rows.ball.radius, start.options())) {
  Aim();
}

AttackRun::Points Apgd::Next() {
  if (done_ > 0) Step();
  const NetworkPasses::Point there = passes_.AttackPoint(point_.x);
  const at::Tensor loss = passes_.LossValues(there.logits);
  point_.gradient = there.gradient.clone();  // the network's memory changes with its next pass
  if (done_++ == 0) {
    best_loss_ = loss.clone();
    best_x_ = point_.x.clone();
    best_gradient_ = there.gradient.clone();
    schedule_.emplace(steps_, loss);
    return {point_.x, there.logits, {}};
  }
  const at::Tensor better = at::gt(loss, best_loss_);
  ReplaceRows(better, point_.x, &best_x_);
  ReplaceRows(better, point_.gradient, &best_gradient_);
  ReplaceRows(better, loss, &best_loss_);
  const Points out{point_.x, there.logits, {}};
  if (schedule_->Count(loss)) {
    const at::Tensor halved = schedule_->Halve(best_loss_);
    step_size_ = at::where(halved, step_size_ * 0.5, step_size_);
    point_.x = point_.x.clone();
    ReplaceRows(halved, best_x_, &point_.x);
    ReplaceRows(halved, best_gradient_, &point_.gradient);
  }
  return out;
}

void Apgd::Step() {
  const double weight = done_ == 1 ? 1 : 1 - kMomentum;
  at::Tensor next = ApgdStep(rows_.ball, rows_.batch.x, point_, step_size_, weight);
  point_.previous = std::exchange(point_.x, std::move(next));
}

void Apgd::Keep(const std::vector<uint8_t>& keep) {
  rows_.batch = SelectRows(rows_.batch, keep);
  if (rows_.targets.defined()) rows_.targets = SelectRows(rows_.targets, keep);
  for (at::Tensor* const tensor :
       {&point_.x, &point_.previous, &point_.gradient, &step_size_, &best_loss_, &best_x_, &best_gradient_}) {
    if (tensor->defined()) *tensor = SelectRows(*tensor, keep);
  }
  if (schedule_) schedule_->Keep(keep);
  Aim();
}

}  // namespace ham::trainer
