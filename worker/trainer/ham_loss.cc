#include "worker/trainer/ham_loss.h"

#include <algorithm>
#include <cmath>

#include <ATen/ops/zeros_like.h>

#include "worker/trainer/models/parameter_set.h"

namespace ham::trainer {
namespace {

template <typename T>
LossSum SumCrossEntropyOf(const at::Tensor& logits, const at::Tensor& labels, const std::vector<double>& weights,
                          double label_smoothing, const at::Tensor& targets) {
  LossSum out{0, 0, at::zeros_like(logits)};
  const int64_t classes = logits.size(1);
  const double elsewhere = label_smoothing / static_cast<double>(classes);
  const T* scores = logits.const_data_ptr<T>();
  const T* shares = targets.defined() ? targets.const_data_ptr<T>() : nullptr;
  T* gradient = out.gradient.data_ptr<T>();
  for (size_t row = 0; row < weights.size(); ++row, scores += classes, gradient += classes) {
    const double weight = weights[row];
    const double largest = *std::max_element(scores, scores + classes);
    double sum = 0, scores_sum = 0;
    for (int64_t k = 0; k < classes; ++k) {
      sum += std::exp(scores[k] - largest);
      scores_sum += scores[k] - largest;
    }
    const double log_sum = std::log(sum);
    const int64_t label = labels.const_data_ptr<int64_t>()[row];
    double at_target = 0;
    for (int64_t k = 0; k < classes; ++k) {
      const double share = shares != nullptr ? double{shares[row * classes + k]} : k == label;
      if (share != 0) at_target += share * (scores[k] - largest);
      const double target = elsewhere + (1 - label_smoothing) * share;
      gradient[k] = static_cast<T>(weight * (std::exp(scores[k] - largest - log_sum) - target));
    }
    out.loss += weight * (log_sum - (1 - label_smoothing) * at_target - elsewhere * scores_sum);
    out.weight += weight;
  }
  return out;
}

}  // namespace

LossSum SumCrossEntropy(const at::Tensor& logits, const at::Tensor& labels, const std::vector<double>& weights,
                        double label_smoothing, const at::Tensor& targets) {
  return VisitReal(logits.scalar_type(), [&]<typename T>(T) {
    return SumCrossEntropyOf<T>(logits, labels, weights, label_smoothing, targets);
  });
}

}  // namespace ham::trainer
