#include "worker/trainer/optimizer.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <ATen/TensorOperators.h>

#include "worker/trainer/device.h"

namespace ham::trainer {
namespace {

constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kAdamEpsilon = 1e-8;

}  // namespace

double GradientNorm(const ParameterSet& gradients) {
  return VisitReal(gradients.type(), [&]<typename T>(T) {
    constexpr int64_t kLanes = 8;  // sums side by side, which the compiler can vectorise
    const T* __restrict g = gradients.flat().const_data_ptr<T>();
    const int64_t count = gradients.trained_size();
    const int64_t whole = count / kLanes * kLanes;
    std::array<double, kLanes> sums{};
    for (int64_t i = 0; i < whole; i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const auto value = static_cast<double>(g[i + lane]);
        sums[lane] += value * value;
      }
    }
    double sum = 0;
    for (const double lane : sums) sum += lane;
    for (int64_t i = whole; i < count; ++i) sum += static_cast<double>(g[i]) * static_cast<double>(g[i]);
    return std::sqrt(sum);
  });
}

Optimizer::Optimizer(const OptimizerOptions& options, const std::vector<ParameterSpec>& specs,
                     const at::TensorOptions& tensor_options)
    : options_(options), momentum_(specs, tensor_options), variance_(specs, tensor_options) {
  int64_t begin = 0;
  for (const ParameterSpec& spec : specs) {
    if (begin == momentum_.trained_size()) break;
    const int64_t end = begin + ParameterCount({spec});
    const bool decays = options.decay_norm_and_bias || spec.kind == ParameterKind::kWeight;
    const double decay = decays ? options.weight_decay : 0;
    if (!segments_.empty() && segments_.back().decay == decay) {
      segments_.back().end = end;
    } else {
      segments_.push_back({begin, end, decay});
    }
    begin = end;
  }
}

void Optimizer::Update(const ParameterSet& gradients, double gradient_norm, double learning_rate,
                       ParameterSet* weights) {
  ++updates_;
  const double most = options_.gradient_clip_norm;
  const double scale = most > 0 ? std::min(1.0, most / (gradient_norm + 1e-6)) : 1;
  if (!OnHost(weights->flat())) {
    UpdateOnDevice(gradients, scale, learning_rate, weights);
    return;
  }
  VisitReal(weights->type(), [&]<typename T>(T) {
    for (const Segment& segment : segments_) {
      if (options_.name == OptimizerKind::kSgd) {
        UpdateSgd<T>(segment, gradients, scale, learning_rate, weights);
      } else {
        UpdateAdam<T>(segment, gradients, scale, learning_rate, weights);
      }
    }
  });
}

template <typename T>
void Optimizer::UpdateSgd(const Segment& segment, const ParameterSet& gradients, double scale, double learning_rate,
                          ParameterSet* weights) {
  const T* __restrict gradient = gradients.flat().const_data_ptr<T>();
  T* __restrict w = weights->flat().data_ptr<T>();
  T* __restrict m = momentum_.flat().data_ptr<T>();
  const auto clip = static_cast<T>(scale);
  const auto decay = static_cast<T>(segment.decay);
  const auto momentum = static_cast<T>(options_.momentum);
  const auto rate = static_cast<T>(learning_rate);
  if (options_.nesterov) {
    for (int64_t i = segment.begin; i < segment.end; ++i) {
      const T g = clip * gradient[i] + decay * w[i];
      m[i] = momentum * m[i] + g;
      w[i] -= rate * (g + momentum * m[i]);
    }
  } else {
    for (int64_t i = segment.begin; i < segment.end; ++i) {
      const T g = clip * gradient[i] + decay * w[i];
      m[i] = momentum * m[i] + g;
      w[i] -= rate * m[i];
    }
  }
}

void Optimizer::UpdateOnDevice(const ParameterSet& gradients, double scale, double learning_rate,
                               ParameterSet* weights) {
  const int64_t trained = weights->trained_size();
  const auto part = [&](const ParameterSet& set) { return set.flat().narrow(0, 0, trained); };
  at::Tensor w = part(*weights), m = part(momentum_), v = part(variance_), g = part(gradients) * scale;
  if (!decay_.defined()) {
    decay_ = at::empty_like(w);
    for (const Segment& segment : segments_) {
      decay_.narrow(0, segment.begin, segment.end - segment.begin).fill_(segment.decay);
    }
  }
  const bool decoupled = options_.name == OptimizerKind::kAdamW;
  if (!decoupled) g.addcmul_(w, decay_);
  if (options_.name == OptimizerKind::kSgd) {
    m.mul_(options_.momentum).add_(g);
    w.sub_(options_.nesterov ? g.add_(m, options_.momentum) : m, learning_rate);
    return;
  }
  const auto t = static_cast<double>(updates_);
  m.lerp_(g, 1 - kBeta1);
  v.mul_(kBeta2).addcmul_(g, g, 1 - kBeta2);
  if (decoupled) w.addcmul_(w, decay_, -learning_rate);
  w.addcdiv_(m, v.sqrt().div_(std::sqrt(1 - std::pow(kBeta2, t))).add_(kAdamEpsilon),
             -learning_rate / (1 - std::pow(kBeta1, t)));
}

template <typename T>
void Optimizer::UpdateAdam(const Segment& segment, const ParameterSet& gradients, double scale, double learning_rate,
                           ParameterSet* weights) {
  const T* __restrict gradient = gradients.flat().const_data_ptr<T>();
  T* __restrict w = weights->flat().data_ptr<T>();
  T* __restrict m = momentum_.flat().data_ptr<T>();
  T* __restrict v = variance_.flat().data_ptr<T>();
  const auto t = static_cast<double>(updates_);
  const bool decoupled = options_.name == OptimizerKind::kAdamW;
  const auto clip = static_cast<T>(scale);
  const auto decay = static_cast<T>(decoupled ? 0 : segment.decay);
  const auto shrink = static_cast<T>(decoupled ? 1 - learning_rate * segment.decay : 1);
  const auto rate = static_cast<T>(learning_rate / (1 - std::pow(kBeta1, t)));
  const auto correction = static_cast<T>(std::sqrt(1 - std::pow(kBeta2, t)));
  const auto from_gradient1 = static_cast<T>(1 - kBeta1);
  const auto beta2 = static_cast<T>(kBeta2);
  const auto from_gradient2 = static_cast<T>(1 - kBeta2);
  for (int64_t i = segment.begin; i < segment.end; ++i) {
    const T g = clip * gradient[i] + decay * w[i];
    m[i] += from_gradient1 * (g - m[i]);
    v[i] = beta2 * v[i] + from_gradient2 * g * g;
    w[i] = shrink * w[i] - rate * m[i] / (std::sqrt(v[i]) / correction + static_cast<T>(kAdamEpsilon));
  }
}

std::vector<at::Tensor> Optimizer::state() const {
  if (options_.name == OptimizerKind::kSgd) return {momentum_.flat()};
  return {momentum_.flat(), variance_.flat()};
}

void Optimizer::Export(TensorMap* out) const {
  momentum_.Export("momentum.", out);
  if (options_.name != OptimizerKind::kSgd) variance_.Export("variance.", out);
}

absl::Status Optimizer::Import(const TensorMap& in, int64_t updates) {
  if (absl::Status status = momentum_.Import("momentum.", in); !status.ok()) return status;
  if (options_.name != OptimizerKind::kSgd) {
    if (absl::Status status = variance_.Import("variance.", in); !status.ok()) return status;
  }
  updates_ = updates;
  return absl::OkStatus();
}

}  // namespace ham::trainer
