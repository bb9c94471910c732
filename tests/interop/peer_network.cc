#include "tests/interop/peer_network.h"

#include <utility>

#include <ATen/ops/full.h>

#include "absl/strings/numbers.h"
#include "worker/trainer/models/networks.h"
#include "worker/trainer/models/small_cnn.h"

namespace ham::trainer {
namespace {

// `width` 0: as published, by name.
std::unique_ptr<Model> Make(const std::string& name, int64_t width, const ModelOptions& options) {
  if (width == 0) {
    auto model = MakeModel(name, options);
    Require(model.status());
    return *std::move(model);
  }
  if (name == "preact-resnet-18") return MakePreActResNet18(options, width);
  if (name == "resnet-18") return MakeResNet18(options, width);
  if (name == "wrn-28-10") return MakeWideResNet(options, 28, width);
  if (name == "wrn-34-10") return MakeWideResNet(options, 34, width);
  if (name == "cnn-wong-kolter") return MakeWongKolterCnn(options, width);
  return MakeSmallCnn({.image = options.image, .conv1 = width, .conv2 = 2 * width, .compute = options.compute});
}

}  // namespace

void Require(const absl::Status& status) { TORCH_CHECK(status.ok(), std::string(status.message())); }

PeerNetwork::PeerNetwork(Safetensors in) : in_(std::move(in)) {
  const at::Tensor& x = Get("x");
  const ModelOptions options{.image = {x.size(1), x.size(2), x.size(3)},
                             .compute = in_.metadata.contains("compute") ? at::kBFloat16 : at::kFloat,
                             .extra_block = in_.metadata.contains("extra_block")};
  model_ = Make(Text("model"), Int("width"), options);
  weights_.emplace(model_->parameters(), x.scalar_type());
  TensorMap all = in_.tensors;
  all["weights.class_bias"] = at::full({model_->classes()}, 0, x.scalar_type());
  Require(weights_->Import("weights.", all));
}

at::Tensor PeerNetwork::Images(const at::Tensor& values) const {
  at::Tensor out = NewImages(values.size(0), model_->image_shape(), values.scalar_type());
  out.copy_(values);
  return out;
}

const std::string& PeerNetwork::Text(const std::string& key) const {
  TORCH_CHECK(in_.metadata.contains(key), key, " is missing");
  return in_.metadata.at(key);
}

int64_t PeerNetwork::Int(const std::string& key) const {
  int64_t value = 0;
  TORCH_CHECK(absl::SimpleAtoi(Text(key), &value), key, " is no whole number");
  return value;
}

double PeerNetwork::Real(const std::string& key) const {
  double value = 0;
  TORCH_CHECK(absl::SimpleAtod(Text(key), &value), key, " is no number");
  return value;
}

}  // namespace ham::trainer
