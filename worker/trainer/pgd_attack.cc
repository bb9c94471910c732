#include "worker/trainer/pgd_attack.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros_like.h>

#include "worker/trainer/batch.h"
#include "worker/trainer/models/batch_norm.h"

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

at::Tensor AttackLossGradient(AttackLoss loss, const at::Tensor& logits, const at::Tensor& labels) {
  return VisitReal(logits.scalar_type(), [&]<typename T>(T) {
    if (loss == AttackLoss::kMargin) return MarginGradient<T>(logits, labels);
    if (loss == AttackLoss::kDlr) return DlrGradient<T>(logits, labels);
    at::Tensor out = at::softmax(logits, 1);
    const int64_t classes = logits.size(1);
    for (int64_t row = 0; row < logits.size(0); ++row) {
      out.data_ptr<T>()[row * classes + labels.const_data_ptr<int64_t>()[row]] -= 1;
    }
    return out;
  });
}

template <typename T>
void ProjectedStep(const T* clean, const T* gradient, int64_t count, T epsilon, T step_size, T* x) {
  for (int64_t i = 0; i < count; ++i) {
    const T sign = static_cast<T>(gradient[i] > 0) - static_cast<T>(gradient[i] < 0);
    const T low = clean[i] - epsilon, high = clean[i] + epsilon;
    T moved = x[i] + step_size * sign;
    moved = moved < low ? low : moved;
    moved = moved > high ? high : moved;
    moved = moved < T{0} ? T{0} : moved;
    x[i] = moved > T{1} ? T{1} : moved;
  }
}
template void ProjectedStep(const float*, const float*, int64_t, float, float, float*);
template void ProjectedStep(const double*, const double*, int64_t, double, double, double*);

absl::StatusOr<at::Tensor> Ascend(const Model& model, const ParameterSet& weights, const at::Tensor& clean,
                                  const at::Tensor& start, const at::Tensor& labels, const Ascent& ascent,
                                  const std::function<void()>& tick) {
  const int64_t rows = clean.size(0);
  TrainingModeAttack* const training = ascent.training;
  const bool joins = training != nullptr && training->collective != nullptr;
  if (rows == 0 && !joins) return start;
  const Batch filler = rows == 0 ? Filler(model.image_shape(), weights.type()) : Batch{};
  const at::Tensor padded_labels = rows == 0 ? filler.labels : PadRows(labels);
  const at::Tensor padded_clean = rows == 0 ? filler.x : PadRows(clean);
  at::Tensor x = rows == 0 ? filler.x.clone() : rows < kMinimumRows ? PadRows(start) : start.clone();
  const LogitsGradient loss = [&](const at::Tensor& logits) {
    if (ascent.observe) ascent.observe(logits);
    return AttackLossGradient(ascent.loss, logits, padded_labels);
  };
  for (int step = 0; step < ascent.steps; ++step) {
    TrainingPass pass{.rows = rows};
    if (training != nullptr) {
      pass.collective = training->collective;
      pass.statistics = training->batch;
    }
    const at::Tensor gradient = model.InputGradient(weights, x, loss, training == nullptr ? nullptr : &pass);
    if (!pass.status.ok()) return pass.status;
    if (training != nullptr) UpdateStatistics(*training->batch, training->weights);
    VisitReal(x.scalar_type(), [&]<typename T>(T) {
      ProjectedStep(padded_clean.const_data_ptr<T>(), gradient.const_data_ptr<T>(), x.numel(),
                    static_cast<T>(ascent.epsilon), static_cast<T>(ascent.step_size), x.data_ptr<T>());
    });
    tick();
  }
  return x.narrow(0, 0, rows);
}

at::Tensor PaddedLogits(const Model& model, const ParameterSet& weights, const at::Tensor& x) {
  if (x.size(0) == 0) return at::empty({0, model.classes()}, weights.type());
  return model.Logits(weights, PadRows(x)).narrow(0, 0, x.size(0));
}

}  // namespace ham::trainer
