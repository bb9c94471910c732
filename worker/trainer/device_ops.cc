#include "worker/trainer/device_ops.h"

#include <limits>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/amin.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/full.h>
#include <ATen/ops/gt.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/lt.h>
#include <ATen/ops/masked_fill.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/scatter_add.h>
#include <ATen/ops/sign.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "worker/trainer/attack_loss.h"
#include "worker/trainer/device.h"
#include "worker/trainer/models/parameter_set.h"
#include "worker/trainer/step_counts.h"

namespace ham::trainer::device {
namespace {

// x * 0 is 0 for finite x and NaN otherwise; a sum of these stays one or the other.

// [N, 1, 1, 1] float64: length of each image.
at::Tensor Lengths(const at::Tensor& images) {
  return at::norm(images.to(at::kDouble), 2, at::IntArrayRef{1, 2, 3}, /*keepdim=*/true);
}

// As `like`, 1 at `index` [N, 1] of each row.
at::Tensor OneAt(const at::Tensor& index, const at::Tensor& like) { return at::zeros_like(like).scatter_(1, index, 1); }

at::Tensor LargestOther(const at::Tensor& logits, const at::Tensor& one_hot) {
  return at::masked_fill(logits, one_hot > 0, -std::numeric_limits<double>::infinity()).argmax(1, /*keepdim=*/true);
}

// The quotient rule, as there; above: gradient of what is divided.
at::Tensor OverSpread(AttackLoss loss, const at::Tensor& logits, const at::Tensor& above) {
  const int64_t fourth = loss == AttackLoss::kDlr ? 2 : 3;
  const auto [values, indices] = at::topk(logits, fourth + 1, 1);
  const auto value = [&values](int64_t place) { return values.narrow(1, place, 1); };
  const auto at = [&](int64_t place) { return OneAt(indices.narrow(1, place, 1), logits); };
  const at::Tensor spread = value(0) - (value(2) + value(fourth)) / 2 + 1e-12;
  const at::Tensor slope = at::sum(logits * above, {1}, /*keepdim=*/true) / (spread * spread);
  return above / spread - slope * (at(0) - (at(2) + at(fourth)) / 2);
}

}  // namespace

at::Tensor OneHot(const at::Tensor& labels, int64_t classes, const at::TensorOptions& options) {
  const at::Tensor out = at::zeros({labels.size(0), classes}, c10::typeMetaToScalarType(options.dtype()));
  out.scatter_(1, labels.unsqueeze(1), 1);
  return ToDevice(out, options.device());
}

Projection::Projection(const Ball& ball, double step_size, const at::Tensor& clean)
    : ball_(ball), step_size_(step_size) {
  if (ball.norm == Norm::kL2) {
    clean_ = clean.clone();
  } else {
    low_ = clean.clone();
    high_ = clean.clone();
    MoveTo(clean);
  }
}

void Projection::MoveTo(const at::Tensor& clean) {
  if (ball_.norm == Norm::kL2) {
    clean_.copy_(clean);
    return;
  }
  low_.copy_(clean).sub_(ball_.radius).clamp_min_(0);
  high_.copy_(clean).add_(ball_.radius).clamp_max_(1);
}

void Projection::Step(const at::Tensor& gradient, at::Tensor x) const {
  if (ball_.norm == Norm::kLinf) {
    x.add_(at::sign(gradient), step_size_).clamp_(low_, high_);
    return;
  }
  const at::Tensor slope = Lengths(gradient);
  const at::Tensor moves = at::bitwise_and(slope > 0, slope * 0 == 0);
  const at::Tensor step = at::where(moves, gradient * (step_size_ / slope), at::zeros({}, slope.options()));
  at::Tensor distance = (x + step - clean_).to(x.scalar_type());
  const at::Tensor length = Lengths(distance);
  const at::Tensor shrink = at::where(length > ball_.radius, ball_.radius / length, at::ones_like(length));
  x.copy_((clean_ + shrink.to(x.scalar_type()) * distance).clamp_(0, 1));
}

at::Tensor AttackLossGradient(AttackLoss loss, const at::Tensor& logits, const at::Tensor& labels,
                              const at::Tensor& goals) {
  if (loss == AttackLoss::kCrossEntropy) return at::softmax(logits, 1).sub_(labels);
  const at::Tensor above = (goals.defined() ? goals : OneAt(LargestOther(logits, labels), logits)) - labels;
  const bool divided = loss == AttackLoss::kDlr || loss == AttackLoss::kTargetedDlr;
  return divided ? OverSpread(loss, logits, above) : above;
}

Loss SumCrossEntropy(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& weights,
                     double label_smoothing) {
  const at::Tensor log_p = at::log_softmax(logits, 1, at::kDouble);
  const at::Tensor shares =
      targets.to(at::kDouble) * (1 - label_smoothing) + label_smoothing / static_cast<double>(logits.size(1));
  const at::Tensor weight = weights.to(at::kDouble).unsqueeze(1);
  return {at::sum(weight * shares * log_p).neg(), (weight * (log_p.exp() - shares)).to(logits.scalar_type())};
}

at::Tensor CountTrained(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& rows) {
  const int64_t classes = logits.size(1);
  const auto count = [&](int64_t bins, const at::Tensor& bin, const at::Tensor& which) {
    return at::zeros({bins}, logits.options().dtype(at::kDouble)).scatter_add(0, bin, which.to(at::kDouble));
  };
  const at::Tensor is_true = at::lt(at::arange(logits.size(0), labels.options()), rows);
  const at::Tensor finite = at::bitwise_and(at::sum(logits * 0, {1}) == 0, is_true);
  const at::Tensor right = at::bitwise_and(at::eq(at::argmax(logits, 1), labels), finite);
  const at::Tensor p = at::softmax(logits, 1, at::kDouble).gather(1, labels.unsqueeze(1)).squeeze(1);
  const at::Tensor bin = at::where(finite, p * kConfidenceBins, at::zeros({}, p.options())).to(at::kLong);
  return at::cat(
      {count(classes, labels, right),
       count(classes * kConfidenceBins, labels * kConfidenceBins + bin.clamp_max(kConfidenceBins - 1), finite)});
}

at::Tensor DistanceFromTie(const at::Tensor& logits, const at::Tensor& one_hot, const at::Tensor& rows) {
  const at::Tensor range = at::amax(logits, {1}) - at::amin(logits, {1});
  const at::Tensor distance = AttackLossValues(AttackLoss::kMargin, logits, one_hot).abs() / range;
  const at::Tensor counts = at::lt(at::arange(logits.size(0), rows.options()), rows);
  const auto number = [&](double value) { return at::full({}, value, logits.options()); };
  return at::where(counts, at::where(distance >= 0, distance, number(0)),
                   number(std::numeric_limits<double>::infinity()));
}

// One pass that only reads. The length of float32 numbers is finite in float64 where all of them are.
at::Tensor AllFinite(const at::Tensor& flat) {
  return (at::linalg_vector_norm(flat, 2, {}, false, at::kDouble) * 0 == 0).to(at::kDouble);
}

}  // namespace ham::trainer::device
