#include "worker/trainer/optimizer.h"

#include <cmath>

namespace ham::trainer {

Optimizer::Optimizer(const OptimizerOptions& options, const std::vector<ParameterSpec>& specs, at::ScalarType type)
    : options_(options), momentum_(specs, type), variance_(specs, type) {}

void Optimizer::Update(const ParameterSet& gradients, double learning_rate, ParameterSet* weights) {
  ++updates_;
  VisitReal(weights->type(), [&]<typename T>(T) { UpdateAs<T>(gradients, learning_rate, weights); });
}

template <typename T>
void Optimizer::UpdateAs(const ParameterSet& gradients, double learning_rate, ParameterSet* weights) {
  const int64_t count = weights->trained_size();
  const T* __restrict gradient = gradients.flat().const_data_ptr<T>();
  T* __restrict w = weights->flat().data_ptr<T>();
  T* __restrict m = momentum_.flat().data_ptr<T>();
  T* __restrict v = variance_.flat().data_ptr<T>();
  const auto decay = static_cast<T>(options_.weight_decay);
  if (options_.name == OptimizerKind::kSgd) {
    const auto momentum = static_cast<T>(options_.momentum);
    const auto rate = static_cast<T>(learning_rate);
    for (int64_t i = 0; i < count; ++i) {
      const T g = gradient[i] + decay * w[i];
      m[i] = updates_ == 1 ? g : momentum * m[i] + g;
      w[i] -= rate * m[i];
    }
    return;
  }
  constexpr double kBeta1 = 0.9, kBeta2 = 0.999;
  constexpr T kEpsilon = static_cast<T>(1e-8);
  const auto t = static_cast<double>(updates_);
  const auto rate = static_cast<T>(learning_rate / (1 - std::pow(kBeta1, t)));
  const auto correction = static_cast<T>(std::sqrt(1 - std::pow(kBeta2, t)));
  const auto from_gradient1 = static_cast<T>(1 - kBeta1);
  const auto beta2 = static_cast<T>(kBeta2);
  const auto from_gradient2 = static_cast<T>(1 - kBeta2);
  for (int64_t i = 0; i < count; ++i) {
    const T g = gradient[i] + decay * w[i];
    m[i] += from_gradient1 * (g - m[i]);
    v[i] = beta2 * v[i] + from_gradient2 * g * g;
    w[i] -= rate * m[i] / (std::sqrt(v[i]) / correction + kEpsilon);
  }
}

void Optimizer::Export(TensorMap* out) const {
  momentum_.Export("momentum.", out);
  if (options_.name == OptimizerKind::kAdam) variance_.Export("variance.", out);
}

absl::Status Optimizer::Import(const TensorMap& in, int64_t updates) {
  if (absl::Status status = momentum_.Import("momentum.", in); !status.ok()) return status;
  if (options_.name == OptimizerKind::kAdam) {
    if (absl::Status status = variance_.Import("variance.", in); !status.ok()) return status;
  }
  updates_ = updates;
  return absl::OkStatus();
}

void UpdateAverage(double decay, const ParameterSet& weights, ParameterSet* average) {
  VisitReal(weights.type(), [&]<typename T>(T) {
    const auto keep = static_cast<T>(decay);
    const auto take = static_cast<T>(1 - decay);
    const T* __restrict w = weights.flat().const_data_ptr<T>();
    T* __restrict a = average->flat().data_ptr<T>();
    for (int64_t i = 0; i < weights.size(); ++i) a[i] = keep * a[i] + take * w[i];
  });
}

}  // namespace ham::trainer
