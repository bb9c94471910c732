#include "worker/trainer/ham_loss.h"

#include <algorithm>
#include <cmath>

#include <ATen/ops/zeros_like.h>

#include "worker/trainer/models/parameter_set.h"

namespace ham::trainer {
namespace {

template <typename T>
LossSum SumCrossEntropyOf(const at::Tensor& logits, const at::Tensor& labels, int64_t rows) {
  LossSum out{0, static_cast<double>(rows), at::zeros_like(logits)};
  const int64_t classes = logits.size(1);
  const T* scores = logits.const_data_ptr<T>();
  T* gradient = out.gradient.data_ptr<T>();
  for (int64_t row = 0; row < rows; ++row, scores += classes, gradient += classes) {
    const T largest = *std::max_element(scores, scores + classes);
    double sum = 0;
    for (int64_t k = 0; k < classes; ++k) sum += std::exp(static_cast<double>(scores[k]) - largest);
    const double log_sum = std::log(sum);
    const int64_t label = labels.const_data_ptr<int64_t>()[row];
    out.loss += log_sum - (static_cast<double>(scores[label]) - largest);
    for (int64_t k = 0; k < classes; ++k) {
      gradient[k] = static_cast<T>(std::exp(static_cast<double>(scores[k]) - largest - log_sum));
    }
    gradient[label] -= 1;
  }
  return out;
}

}  // namespace

LossSum SumCrossEntropy(const at::Tensor& logits, const at::Tensor& labels, int64_t rows) {
  return VisitReal(logits.scalar_type(), [&]<typename T>(T) { return SumCrossEntropyOf<T>(logits, labels, rows); });
}

}  // namespace ham::trainer
