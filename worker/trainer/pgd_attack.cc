#include "worker/trainer/pgd_attack.h"

#include "worker/trainer/device.h"
#include "worker/trainer/models/batch_norm.h"

namespace ham::trainer {

AscentStep::AscentStep(const Ball& ball, double step_size, const at::Tensor& clean)
    : ball_(ball), step_size_(step_size), clean_(clean) {
  if (!OnHost(clean)) projection_.emplace(ball, step_size, clean);
}

void AscentStep::Take(const at::Tensor& gradient, at::Tensor x) const {
  if (projection_) return projection_->Step(gradient, x);
  VisitReal(x.scalar_type(), [&]<typename T>(T) {
    ProjectedStep(ball_, step_size_, clean_.const_data_ptr<T>(), gradient.const_data_ptr<T>(), x.size(0),
                  x.numel() / x.size(0), x.data_ptr<T>());
  });
}

absl::StatusOr<at::Tensor> Ascend(NetworkPasses& passes, const Batch& clean, const at::Tensor& start,
                                  const Ascent& ascent, const std::function<void()>& tick) {
  const int64_t rows = clean.rows();
  TrainingModeAttack* const training = ascent.training;
  const bool joins = training != nullptr && training->collective != nullptr;
  if (rows == 0 && !joins) return start;
  const Batch padded = rows == 0 ? Filler(passes.model().image_shape(), training->weights->options()) : PadRows(clean);
  at::Tensor x = rows == 0 ? padded.x.clone() : rows < kMinimumRows ? PadRows(start) : start.clone();
  const AscentStep step_from(ascent.ball, ascent.step_size, padded.x);
  passes.Aim(ascent.loss, padded);
  const auto observe = [&](const at::Tensor& logits) {
    if (ascent.observe) ascent.observe(x, logits);
  };
  for (int step = 0; step < ascent.steps; ++step) {
    at::Tensor gradient;
    if (training == nullptr) {
      const NetworkPasses::Point point = passes.AttackPoint(x);
      observe(point.logits);
      gradient = point.gradient;
    } else {
      TrainingPass pass{.rows = rows, .collective = training->collective, .statistics = training->batch};
      const auto loss = [&](const at::Tensor& logits) {
        observe(logits);
        return passes.LossGradient(logits);
      };
      gradient = passes.model().InputGradient(*training->weights, x, loss, &pass);
      if (!pass.status.ok()) return pass.status;
      if (pass.has_rows) UpdateStatistics(*training->batch, training->weights);
    }
    step_from.Take(gradient, x);
    tick();
  }
  return x.narrow(0, 0, rows);
}

}  // namespace ham::trainer
