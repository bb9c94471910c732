#include "worker/trainer/boundary_trace.h"

#include <algorithm>
#include <cmath>

#include "worker/trainer/hard_examples.h"

namespace ham::trainer {
namespace {

constexpr double kWeightFloor = 0.1;
constexpr int kStateCounts = 4;

template <typename T>
void KeepElements(const std::vector<uint8_t>& keep, std::vector<T>* values) {
  size_t next = 0;
  for (size_t i = 0; i < keep.size(); ++i) {
    if (keep[i]) std::swap((*values)[next++], (*values)[i]);
  }
  values->resize(next);
}

}  // namespace

BoundaryTrace::BoundaryTrace(const at::Tensor& labels, WeightMode mode)
    : labels_(labels.const_data_ptr<int64_t>(), labels.const_data_ptr<int64_t>() + labels.numel()),
      mode_(mode),
      first_wrong_(labels_.size()),
      right_(labels_.size()),
      at_first_wrong_(labels_.size()),
      last_(labels_.size()),
      largest_change_(labels_.size()) {}

void BoundaryTrace::Observe(const at::Tensor& logits) {
  const std::vector<int64_t> predictions = Predictions(logits);
  for (size_t row = 0; row < labels_.size(); ++row) {
    const bool right = predictions[row] == labels_[row];
    const bool was_wrong = first_wrong_[row] < observed_;
    if (right && !was_wrong) ++first_wrong_[row];
    right_[row] += right;
    if (!NeedsProbabilities()) continue;
    std::vector<double> now = Probabilities(logits, static_cast<int64_t>(row));
    if (observed_ > 0) {
      double change = 0;
      for (size_t k = 0; k < now.size(); ++k) change += std::abs(now[k] - last_[row][k]);
      largest_change_[row] = std::max(largest_change_[row], change);
    }
    if (!right && !was_wrong) at_first_wrong_[row] = now;
    last_[row] = std::move(now);
  }
  ++observed_;
}

void BoundaryTrace::Keep(const std::vector<uint8_t>& keep) {
  KeepElements(keep, &labels_);
  KeepElements(keep, &first_wrong_);
  KeepElements(keep, &right_);
  KeepElements(keep, &at_first_wrong_);
  KeepElements(keep, &last_);
  KeepElements(keep, &largest_change_);
}

size_t BoundaryTrace::StateSize(int64_t classes) const {
  return kStateCounts + (NeedsProbabilities() ? 1 + 2 * static_cast<size_t>(classes) : 0);
}

std::vector<double> BoundaryTrace::State(size_t row) const {
  std::vector<double> out = {static_cast<double>(observed_), static_cast<double>(labels_[row]),
                             static_cast<double>(first_wrong_[row]), static_cast<double>(right_[row])};
  if (!NeedsProbabilities()) return out;
  out.push_back(largest_change_[row]);
  out.insert(out.end(), last_[row].begin(), last_[row].end());
  out.insert(out.end(), at_first_wrong_[row].begin(), at_first_wrong_[row].end());
  out.resize(StateSize(static_cast<int64_t>(last_[row].size())));
  return out;
}

void BoundaryTrace::Append(const std::vector<double>& state) {
  observed_ = static_cast<int>(state[0]);
  labels_.push_back(static_cast<int64_t>(state[1]));
  first_wrong_.push_back(static_cast<int>(state[2]));
  right_.push_back(static_cast<int>(state[3]));
  last_.emplace_back();
  at_first_wrong_.emplace_back();
  largest_change_.push_back(0);
  if (!NeedsProbabilities()) return;
  largest_change_.back() = state[kStateCounts];
  const auto last = state.begin() + kStateCounts + 1, middle = last + (state.end() - last) / 2;
  last_.back().assign(last, middle);
  if (first_wrong_.back() < observed_) at_first_wrong_.back().assign(middle, state.end());
}

std::vector<double> BoundaryTrace::Weights(int mining_step) const {
  std::vector<double> out(labels_.size(), 1.0);
  const double half = mining_step / 2.0;
  for (size_t row = 0; row < out.size(); ++row) {
    if (mode_ == WeightMode::kFirstCross) {
      double square = 0;
      for (size_t k = 0; k < at_first_wrong_[row].size(); ++k) {
        square += std::pow(at_first_wrong_[row][k] - last_[row][k], 2);
      }
      out[row] = kWeightFloor + std::sqrt(square);
    } else if (mode_ == WeightMode::kDeltaMax) {
      out[row] = kWeightFloor + largest_change_[row];
    } else if (mode_ == WeightMode::kKappa) {
      const double kappa = std::min(right_[row], mining_step);
      out[row] = (std::tanh(-1 + 5 * (half - kappa) / half) + 1) / 2;
    }
  }
  return out;
}

}  // namespace ham::trainer
