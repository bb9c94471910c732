#include "worker/trainer/evaluation/fab.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/le.h>
#include <ATen/ops/ne.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>

#include "worker/trainer/device.h"
#include "worker/trainer/evaluation/fab_projection.h"
#include "worker/trainer/evaluation/pixel_loop.h"
#include "worker/trainer/models/parameter_set.h"

namespace ham::trainer {
namespace {

constexpr double kMostPull = 0.1;       // of the image on the next point: alpha_max of the paper
constexpr double kOvershoot = 1.05;     // beyond the boundary: eta
constexpr double kWayBack = 0.9;        // from the image to a wrong point: beta
constexpr double kShortestMove = 1e-8;  // so that moves of length 0 can be compared
constexpr int64_t kRowsPerThread = 4;

// A point of each row and the boundary there, as if the network were linear. [N, P]
struct Boundary {
  at::Tensor clean, x;
  at::Tensor gradient;  // of goal's logit minus true logit, at x
  at::Tensor value;     // [N] that difference, at x
};

template <typename T>
double Dot(const T* a, const T* b, const T* c, int64_t pixels) {  // <a, b - c>
  T lanes[kLanes] = {};
  ForEachPixel(pixels, [&](int64_t i, int lane) { lanes[lane] += a[i] * (b[i] - c[i]); });
  return SumOf(lanes);
}

template <typename T>
double Distance(Norm norm, const T* a, const T* b, int64_t pixels) {
  T largest[kLanes] = {}, squares[kLanes] = {};
  ForEachPixel(pixels, [&](int64_t i, int lane) {
    const T away = std::abs(a[i] - b[i]);
    largest[lane] = std::max(largest[lane], away);
    squares[lane] += away * away;
  });
  return norm == Norm::kL2 ? std::sqrt(SumOf(squares)) : *std::max_element(largest, largest + kLanes);
}

// Of one row; moves: [2 P], for its use.
template <typename T>
void StepRow(Norm norm, const T* clean, const T* x, const T* w, double value, int64_t pixels, T* moves, T* next) {
  T* const move = moves;
  T* const clean_move = moves + pixels;
  const double length = std::max(MoveOntoHyperplane(norm, w, value, x, pixels, move), kShortestMove);
  const double clean_value = value + Dot(w, clean, x, pixels);
  const double clean_length =
      std::max(MoveOntoHyperplane(norm, w, clean_value, clean, pixels, clean_move), kShortestMove);
  const T pull = static_cast<T>(std::min(length / (length + clean_length), kMostPull));
  const T overshoot = static_cast<T>(kOvershoot), rest = T{1} - pull;
  for (int64_t i = 0; i < pixels; ++i) {
    const T mixed = (x[i] + overshoot * move[i]) * rest + (clean[i] + overshoot * clean_move[i]) * pull;
    next[i] = std::min(std::max(mixed, T{0}), T{1});
  }
}

template <typename T>
void StepOnHost(Norm norm, const Boundary& boundary, T* next) {
  const int64_t pixels = boundary.x.size(1);
  at::parallel_for(0, boundary.x.size(0), kRowsPerThread, [&](int64_t begin, int64_t end) {
    std::vector<T> moves(2 * pixels);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t i = row * pixels;
      StepRow(norm, boundary.clean.const_data_ptr<T>() + i, boundary.x.const_data_ptr<T>() + i,
              boundary.gradient.const_data_ptr<T>() + i, boundary.value.const_data_ptr<T>()[row], pixels, moves.data(),
              next + i);
    }
  });
}

void StepOnDevice(Norm norm, const Boundary& boundary, at::Tensor next) {
  const at::Tensor clean_value = boundary.value + at::sum(boundary.gradient * (boundary.clean - boundary.x), {1});
  const at::Tensor moves =
      MovesOntoHyperplanes(norm, at::cat({boundary.gradient, boundary.gradient}),
                           at::cat({boundary.value, clean_value}), at::cat({boundary.x, boundary.clean}));
  const int64_t rows = boundary.x.size(0);
  const auto move = [&](int64_t which) { return moves.narrow(0, which * rows, rows); };
  const at::Tensor lengths = NormsOf(norm, moves).clamp_min_(kShortestMove);
  const at::Tensor length = lengths.narrow(0, 0, rows), clean_length = lengths.narrow(0, rows, rows);
  const at::Tensor pull = (length / (length + clean_length)).clamp_max_(kMostPull);
  next.copy_((boundary.x + move(0) * kOvershoot) * (1 - pull) + (boundary.clean + move(1) * kOvershoot) * pull)
      .clamp_(0, 1);
}

// [N, P] each; x: where the next step begins.
template <typename T>
void JudgeOnHost(const Ball& ball, const at::Tensor& wrong, const at::Tensor& clean, const at::Tensor& found,
                 bool* inside, T* x) {
  const int64_t pixels = found.size(1);
  const T* from = clean.const_data_ptr<T>();
  const T* at = found.const_data_ptr<T>();
  for (int64_t row = 0; row < found.size(0); ++row, from += pixels, at += pixels, x += pixels) {
    inside[row] = static_cast<T>(Distance(ball.norm, at, from, pixels)) <= static_cast<T>(ball.radius);
    if (wrong.const_data_ptr<bool>()[row]) {
      for (int64_t i = 0; i < pixels; ++i) x[i] = from[i] + (at[i] - from[i]) * static_cast<T>(kWayBack);
    } else {
      std::copy_n(at, pixels, x);
    }
  }
}

at::Tensor StartAtRandom(const AttackedRows& rows) {
  const at::Tensor& clean = rows.batch.x;
  at::Tensor noise = StartNoise(rows.batch.ids, ShapeOf(clean), rows.ball, rows.key);
  float* u = noise.data_ptr<float>();
  const int64_t pixels = noise.numel() / noise.size(0);
  const std::vector<float> zeros(pixels);
  for (int64_t row = 0; row < noise.size(0); ++row, u += pixels) {
    const double length = Distance(rows.ball.norm, u, zeros.data(), pixels);
    for (int64_t i = 0; i < pixels; ++i) u[i] *= static_cast<float>(rows.ball.radius / 2 / length);
  }
  return StartFrom(clean, noise);
}

}  // namespace

FabTargeted::FabTargeted(NetworkPasses& passes, const AttackedRows& rows, int steps, int restart)
    : passes_(passes), rows_(rows), steps_(steps), x_(restart > 0 ? StartAtRandom(rows) : rows.batch.x.clone()) {
  Aim();
}

void FabTargeted::Aim() {
  passes_.Aim(AttackLoss::kLogitDifference, rows_.batch, rows_.targets);
  labels_ = ToDevice(rows_.batch.labels, x_.device());
}

AttackRun::Points FabTargeted::Next() {
  const NetworkPasses::Point there = passes_.AttackPoint(x_);
  const Boundary boundary{AsRows(rows_.batch.x), AsRows(x_), AsRows(there.gradient), passes_.LossValues(there.logits)};
  const Norm norm = rows_.ball.norm;
  Points out;
  out.x = NewImages(x_.size(0), passes_.model().image_shape(), x_.options());
  const at::Tensor found = AsRows(out.x);
  const bool on_host = OnHost(x_);
  if (on_host) {
    VisitReal(x_.scalar_type(), [&]<typename T>(T) { StepOnHost(norm, boundary, out.x.data_ptr<T>()); });
  } else {
    StepOnDevice(norm, boundary, found);
  }
  out.logits = passes_.AttackLogits(out.x);
  const at::Tensor wrong = at::ne(at::argmax(out.logits, 1), labels_);
  if (on_host) {
    out.inside = at::empty({x_.size(0)}, at::kBool);
    VisitReal(x_.scalar_type(), [&]<typename T>(T) {
      JudgeOnHost(rows_.ball, wrong, boundary.clean, found, out.inside.data_ptr<bool>(), x_.data_ptr<T>());
    });
  } else {
    const at::Tensor away = found - boundary.clean;
    out.inside = at::le(NormsOf(norm, away).squeeze(1), rows_.ball.radius);
    boundary.x.copy_(at::where(wrong.unsqueeze(1), boundary.clean + away * kWayBack, found));
  }
  return out;
}

void FabTargeted::Keep(const std::vector<uint8_t>& keep) {
  rows_.batch = SelectRows(rows_.batch, keep);
  rows_.targets = SelectRows(rows_.targets, keep);
  x_ = SelectRows(x_, keep);
  Aim();
}

}  // namespace ham::trainer
