#include "worker/trainer/class_bias.h"

#include <ATen/ops/add.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include "worker/trainer/device.h"

namespace ham::trainer {

void RunningClassBias::Update(const std::vector<int64_t>& class_rows, const std::vector<int64_t>& class_right,
                              ParameterSet* weights) {
  double sum = 0, seen = 0;
  for (size_t c = 0; c < robust_.size(); ++c) {
    if (class_rows[c] > 0) {
      const double share = static_cast<double>(class_right[c]) / static_cast<double>(class_rows[c]);
      robust_[c] = robust_[c] < 0 ? share : decay_ * robust_[c] + (1 - decay_) * share;
    }
    if (robust_[c] >= 0) {
      sum += robust_[c];
      ++seen;
    }
  }
  if (seen == 0) return;
  std::vector<double> change(robust_.size());
  for (size_t c = 0; c < robust_.size(); ++c) {
    if (robust_[c] >= 0) change[c] = rate_ * (sum / seen - robust_[c]);
  }
  const at::Tensor& bias = weights->class_bias();
  bias.add_(ToDevice(at::tensor(change, weights->type()), weights->device()));
  bias.sub_(at::mean(bias, at::kDouble));
}

void FoldClassBias(const std::string& output_bias, TensorMap* model, TensorMap* state) {
  (*state)["output_bias"] = model->at(output_bias);
  (*state)[kClassBiasName] = model->at(kClassBiasName);
  (*model)[output_bias] = at::add(model->at(output_bias), model->at(kClassBiasName));
  model->erase(kClassBiasName);
}

void UnfoldClassBias(const std::string& output_bias, const TensorMap& state, TensorMap* model) {
  const auto bias = state.find(kClassBiasName), before = state.find("output_bias");
  if (bias != state.end() && before != state.end()) {
    (*model)[output_bias] = before->second;
    (*model)[kClassBiasName] = bias->second;
  } else if (const auto found = model->find(output_bias); found != model->end()) {
    (*model)[kClassBiasName] = at::zeros_like(found->second);
  }
}

}  // namespace ham::trainer
