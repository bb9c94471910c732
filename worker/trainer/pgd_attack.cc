#include "worker/trainer/pgd_attack.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros_like.h>

#include "worker/trainer/device.h"
#include "worker/trainer/device_ops.h"
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

absl::StatusOr<at::Tensor> Ascend(const FrozenNetwork& network, const Batch& clean, const at::Tensor& start,
                                  const Ascent& ascent, const std::function<void()>& tick) {
  const int64_t rows = clean.rows();
  TrainingModeAttack* const training = ascent.training;
  const bool joins = training != nullptr && training->collective != nullptr;
  if (rows == 0 && !joins) return start;
  const Batch padded =
      rows == 0 ? Filler(training->model->image_shape(), training->weights->options()) : PadRows(clean);
  at::Tensor x = rows == 0 ? padded.x.clone() : rows < kMinimumRows ? PadRows(start) : start.clone();
  const bool on_host = OnHost(x);
  std::optional<device::Projection> projection;
  at::Tensor one_hot;
  if (!on_host) projection.emplace(ascent.ball, ascent.step_size, padded.x);
  const LogitsGradient loss = [&](const at::Tensor& logits) {
    if (ascent.observe) ascent.observe(x, logits);
    if (on_host) return AttackLossGradient(ascent.loss, logits, padded.labels, padded.targets);
    if (!one_hot.defined()) one_hot = device::OneHot(padded.labels, logits.size(1), logits.options());
    return device::AttackLossGradient(ascent.loss, logits, one_hot,
                                      padded.targets.defined() ? padded.targets : one_hot);
  };
  for (int step = 0; step < ascent.steps; ++step) {
    TrainingPass pass{.rows = rows};
    if (training != nullptr) {
      pass.collective = training->collective;
      pass.statistics = training->batch;
    }
    const at::Tensor gradient = training == nullptr
                                    ? network.InputGradient(x, loss)
                                    : training->model->InputGradient(*training->weights, x, loss, &pass);
    if (!pass.status.ok()) return pass.status;
    if (pass.has_rows) UpdateStatistics(*training->batch, training->weights);
    if (on_host) {
      VisitReal(x.scalar_type(), [&]<typename T>(T) {
        ProjectedStep(ascent.ball, ascent.step_size, padded.x.const_data_ptr<T>(), gradient.const_data_ptr<T>(),
                      x.size(0), x.numel() / x.size(0), x.data_ptr<T>());
      });
    } else {
      projection->Step(gradient, x);
    }
    tick();
  }
  return x.narrow(0, 0, rows);
}

at::Tensor PaddedLogits(const Model& model, const ParameterSet& weights, const at::Tensor& x) {
  if (x.size(0) == 0) return at::empty({0, model.classes()}, weights.options());
  return model.Logits(weights, PadRows(x)).narrow(0, 0, x.size(0));
}

}  // namespace ham::trainer
