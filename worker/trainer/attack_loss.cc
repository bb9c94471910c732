#include "worker/trainer/attack_loss.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/masked_fill.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros_like.h>

#include "worker/trainer/models/parameter_set.h"

namespace ham::trainer {
namespace {

template <typename T>
at::Tensor MarginGradient(const at::Tensor& logits, const at::Tensor& labels) {
  const int64_t rows = logits.size(0), classes = logits.size(1);
  at::Tensor out = at::zeros_like(logits);
  const T* scores = logits.const_data_ptr<T>();
  T* gradient = out.data_ptr<T>();
  for (int64_t row = 0; row < rows; ++row, scores += classes, gradient += classes) {
    const int64_t label = labels.const_data_ptr<int64_t>()[row];
    int64_t other = label == 0 ? 1 : 0;
    for (int64_t k = 0; k < classes; ++k) {
      if (k != label && scores[k] > scores[other]) other = k;
    }
    gradient[other] = 1;
    gradient[label] = -1;
  }
  return out;
}

template <typename T>
at::Tensor DifferenceGradient(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& goals) {
  at::Tensor out = at::zeros_like(logits);
  T* gradient = out.data_ptr<T>();
  for (int64_t row = 0; row < logits.size(0); ++row, gradient += logits.size(1)) {
    gradient[goals.const_data_ptr<int64_t>()[row]] = 1;
    gradient[labels.const_data_ptr<int64_t>()[row]] = -1;
  }
  return out;
}

// By the quotient rule, of what the loss divides by a spread of the logits: `out` is its gradient.
template <typename T>
at::Tensor OverSpread(AttackLoss loss, const at::Tensor& logits, at::Tensor out) {
  const int64_t rows = logits.size(0), classes = logits.size(1);
  const T* scores = logits.const_data_ptr<T>();
  T* gradient = out.data_ptr<T>();
  std::vector<int64_t> order(classes);
  for (int64_t row = 0; row < rows; ++row, scores += classes, gradient += classes) {
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
    const int64_t third = order[2], fourth = loss == AttackLoss::kDlr ? third : order[3];
    T above = 0;
    for (int64_t k = 0; k < classes; ++k) above += gradient[k] * scores[k];
    const T spread = scores[order[0]] - (scores[third] + scores[fourth]) / 2 + static_cast<T>(1e-12);
    for (int64_t k = 0; k < classes; ++k) gradient[k] /= spread;
    const T slope = above / (spread * spread);
    gradient[order[0]] -= slope;
    gradient[third] += slope / 2;
    gradient[fourth] += slope / 2;
  }
  return out;
}

}  // namespace

at::Tensor AttackLossGradient(AttackLoss loss, const at::Tensor& logits, const at::Tensor& labels,
                              const at::Tensor& shares, const at::Tensor& goals) {
  return VisitReal(logits.scalar_type(), [&]<typename T>(T) {
    switch (loss) {
      case AttackLoss::kMargin:
        return MarginGradient<T>(logits, labels);
      case AttackLoss::kDlr:
        return OverSpread<T>(loss, logits, MarginGradient<T>(logits, labels));
      case AttackLoss::kTargetedDlr:
        return OverSpread<T>(loss, logits, DifferenceGradient<T>(logits, labels, goals));
      case AttackLoss::kLogitDifference:
        return DifferenceGradient<T>(logits, labels, goals);
      case AttackLoss::kCrossEntropy:
        break;
    }
    at::Tensor out = at::softmax(logits, 1);
    if (shares.defined()) return out.sub_(shares);
    const int64_t classes = logits.size(1);
    for (int64_t row = 0; row < logits.size(0); ++row) {
      out.data_ptr<T>()[row * classes + labels.const_data_ptr<int64_t>()[row]] -= 1;
    }
    return out;
  });
}

at::Tensor AttackLossValues(AttackLoss loss, const at::Tensor& logits, const at::Tensor& labels,
                            const at::Tensor& goals) {
  if (loss == AttackLoss::kCrossEntropy) return at::sum(at::log_softmax(logits, 1) * labels, {1}).neg_();
  const double infinity = std::numeric_limits<double>::infinity();
  const at::Tensor to =
      goals.defined() ? at::sum(logits * goals, {1}) : at::amax(at::masked_fill(logits, labels > 0, -infinity), {1});
  const at::Tensor above = to - at::sum(logits * labels, {1});
  if (loss == AttackLoss::kMargin || loss == AttackLoss::kLogitDifference) return above;
  const at::Tensor top = std::get<0>(at::topk(logits, loss == AttackLoss::kDlr ? 3 : 4, 1));
  const at::Tensor low = loss == AttackLoss::kDlr ? top.select(1, 2) : (top.select(1, 2) + top.select(1, 3)) * 0.5;
  return above / (top.select(1, 0) - low + 1e-12);
}

}  // namespace ham::trainer
