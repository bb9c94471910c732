#include "worker/trainer/models/model.h"

#include <ATen/ops/add.h>
#include <ATen/ops/div.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/sub.h>

namespace ham::trainer {

at::Tensor NewImages(int64_t rows, const ImageShape& shape, const at::TensorOptions& options) {
  return at::empty_strided({rows, shape.channels, shape.height, shape.width},
                           {shape.size(), 1, shape.width * shape.channels, shape.channels}, options);
}

at::Tensor AsRows(const at::Tensor& tensor) {
  int64_t width = 1;
  for (int64_t dimension = 1; dimension < tensor.dim(); ++dimension) width *= tensor.size(dimension);
  return tensor.as_strided({tensor.size(0), width}, {width, 1});
}

namespace {

// `loss` of the logits with the class bias.
LogitsGradient WithClassBias(const at::Tensor& class_bias, const LogitsGradient& loss) {
  return [&](const at::Tensor& logits) { return loss(at::add(logits, class_bias)); };
}

// [C] numbers, beside images, as `like` in type and device.
at::Tensor PerChannel(const std::vector<double>& numbers, const at::Tensor& like) {
  at::Tensor out = at::empty({1, static_cast<int64_t>(numbers.size()), 1, 1}, like.options());
  // No copy from the host, which a recording (accelerator.h) could not repeat.
  for (size_t c = 0; c < numbers.size(); ++c) out.select(1, static_cast<int64_t>(c)).fill_(numbers[c]);
  return out;
}

}  // namespace

const std::string& OutputBias(const Model& model) {
  const std::vector<ParameterSpec>& specs = model.parameters();
  size_t last = specs.size();
  while (specs[last - 1].kind == ParameterKind::kStatistic || specs[last - 1].kind == ParameterKind::kClassBias) --last;
  return specs[last - 1].name;
}

at::Tensor Model::Normalize(const at::Tensor& x) const {
  if (!normalization_) return x;
  at::Tensor out = NewImages(x.size(0), image_shape(), x.options());
  at::sub_out(out, x, PerChannel(normalization_->mean, x));
  return out.div_(PerChannel(normalization_->standard_deviation, x));
}

at::Tensor Model::Logits(const ParameterSet& weights, const at::Tensor& x) const {
  return at::add(DoLogits(weights, Normalize(x)), weights.class_bias());
}

at::Tensor Model::InputGradient(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss,
                                TrainingPass* training) const {
  at::Tensor gradient = DoInputGradient(weights, Normalize(x), WithClassBias(weights.class_bias(), loss), training);
  return normalization_ ? gradient.div_(PerChannel(normalization_->standard_deviation, x)) : gradient;
}

void Model::WeightGradients(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss,
                            TrainingPass* training, ParameterSet* gradients) const {
  DoWeightGradients(weights, Normalize(x), WithClassBias(weights.class_bias(), loss), training, gradients);
}

std::unique_ptr<FrozenNetwork> Model::Freeze(const ParameterSet& weights) const {
  std::unique_ptr<FrozenNetwork> out = DoFreeze(weights);
  out->Refresh(weights);
  return out;
}

FrozenNetwork::FrozenNetwork(const std::optional<Normalization>& normalization, const ParameterSet& weights,
                             at::ScalarType compute)
    : rounds_(weights.type() == at::kFloat && compute == at::kBFloat16),
      class_bias_(at::empty_like(weights.class_bias())) {
  if (!normalization) return;
  mean_ = PerChannel(normalization->mean, weights.flat());
  deviation_ = PerChannel(normalization->standard_deviation, weights.flat());
}

void FrozenNetwork::Refresh(const ParameterSet& weights) {
  class_bias_.copy_(weights.class_bias());
  DoRefresh(weights);
}

at::Tensor FrozenNetwork::InputGradient(const at::Tensor& x, const LogitsGradient& loss) const {
  at::Tensor gradient = DoInputGradient(Normalize(x), WithClassBias(class_bias_, loss));
  return mean_.defined() ? gradient.div_(deviation_) : gradient;
}

at::Tensor FrozenNetwork::Logits(const at::Tensor& x) const { return at::add(DoLogits(Normalize(x)), class_bias_); }

at::Tensor FrozenNetwork::Normalize(const at::Tensor& x) const {
  if (!mean_.defined()) return x;
  at::Tensor out = at::empty_strided(x.sizes(), x.strides(), x.options());
  at::sub_out(out, x, mean_);
  return out.div_(deviation_);
}

nlohmann::json NormalizationJson(const Model& model) {
  if (!model.normalization()) return nlohmann::json::object();
  return {{"mean", model.normalization()->mean}, {"standard_deviation", model.normalization()->standard_deviation}};
}

}  // namespace ham::trainer
