#include "worker/trainer/attack_loss.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include <ATen/ops/softmax.h>
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

// With z: logits, y: label, o: largest other; 1st and 3rd largest of all. The quotient rule, written out.
template <typename T>
at::Tensor DlrGradient(const at::Tensor& logits, const at::Tensor& labels) {
  at::Tensor out = MarginGradient<T>(logits, labels);
  const int64_t rows = logits.size(0), classes = logits.size(1);
  const T* scores = logits.const_data_ptr<T>();
  T* gradient = out.data_ptr<T>();
  std::vector<int64_t> order(classes);
  for (int64_t row = 0; row < rows; ++row, scores += classes, gradient += classes) {
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
    const int64_t label = labels.const_data_ptr<int64_t>()[row];
    const T margin = scores[order[0] == label ? order[1] : order[0]] - scores[label];
    const T spread = scores[order[0]] - scores[order[2]] + static_cast<T>(1e-12);
    for (int64_t k = 0; k < classes; ++k) gradient[k] /= spread;
    gradient[order[0]] -= margin / (spread * spread);
    gradient[order[2]] += margin / (spread * spread);
  }
  return out;
}

}  // namespace

at::Tensor AttackLossGradient(AttackLoss loss, const at::Tensor& logits, const at::Tensor& labels,
                              const at::Tensor& targets) {
  return VisitReal(logits.scalar_type(), [&]<typename T>(T) {
    if (loss == AttackLoss::kMargin) return MarginGradient<T>(logits, labels);
    if (loss == AttackLoss::kDlr) return DlrGradient<T>(logits, labels);
    at::Tensor out = at::softmax(logits, 1);
    if (targets.defined()) return out.sub_(targets);
    const int64_t classes = logits.size(1);
    for (int64_t row = 0; row < logits.size(0); ++row) {
      out.data_ptr<T>()[row * classes + labels.const_data_ptr<int64_t>()[row]] -= 1;
    }
    return out;
  });
}

}  // namespace ham::trainer
