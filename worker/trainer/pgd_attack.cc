#include "worker/trainer/pgd_attack.h"

#include <algorithm>

#include <ATen/ops/empty.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros_like.h>

#include "worker/trainer/batch.h"

namespace ham::trainer {
namespace {

at::Tensor MarginGradient(const at::Tensor& logits, const at::Tensor& labels) {
  const int64_t rows = logits.size(0), classes = logits.size(1);
  at::Tensor out = at::zeros_like(logits);
  const float* scores = logits.const_data_ptr<float>();
  float* gradient = out.data_ptr<float>();
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

}  // namespace

at::Tensor AttackLossGradient(AttackLoss loss, const at::Tensor& logits, const at::Tensor& labels) {
  if (loss == AttackLoss::kMargin) return MarginGradient(logits, labels);
  at::Tensor out = at::softmax(logits, 1);
  const int64_t classes = logits.size(1);
  for (int64_t row = 0; row < logits.size(0); ++row) {
    out.data_ptr<float>()[row * classes + labels.const_data_ptr<int64_t>()[row]] -= 1;
  }
  return out;
}

void ProjectedStep(const float* clean, const float* gradient, int64_t count, float epsilon, float step_size, float* x) {
  for (int64_t i = 0; i < count; ++i) {
    const float sign = static_cast<float>(gradient[i] > 0) - static_cast<float>(gradient[i] < 0);
    const float low = clean[i] - epsilon, high = clean[i] + epsilon;
    float moved = x[i] + step_size * sign;
    moved = moved < low ? low : moved;
    moved = moved > high ? high : moved;
    moved = moved < 0.0f ? 0.0f : moved;
    x[i] = moved > 1.0f ? 1.0f : moved;
  }
}

at::Tensor Ascend(const Model& model, const ParameterSet& weights, const at::Tensor& clean, const at::Tensor& start,
                  const at::Tensor& labels, const Ascent& ascent, const std::function<void()>& tick) {
  const int64_t rows = clean.size(0);
  if (rows == 0) return start;
  const at::Tensor padded_labels = PadRows(labels);
  const at::Tensor padded_clean = PadRows(clean);
  at::Tensor x = rows < kMinimumRows ? PadRows(start) : start.clone();
  const LogitsGradient loss = [&](const at::Tensor& logits) {
    return AttackLossGradient(ascent.loss, logits, padded_labels);
  };
  for (int step = 0; step < ascent.steps; ++step) {
    const at::Tensor gradient = model.InputGradient(weights, x, loss);
    ProjectedStep(padded_clean.const_data_ptr<float>(), gradient.const_data_ptr<float>(), x.numel(),
                  static_cast<float>(ascent.epsilon), static_cast<float>(ascent.step_size), x.data_ptr<float>());
    tick();
  }
  return x.narrow(0, 0, rows);
}

at::Tensor PaddedLogits(const Model& model, const ParameterSet& weights, const at::Tensor& x) {
  if (x.size(0) == 0) return at::empty({0, model.classes()}, at::kFloat);
  return model.Logits(weights, PadRows(x)).narrow(0, 0, x.size(0));
}

}  // namespace ham::trainer
