// A network and images from a file, as the programs here get them (engine_step.h).
#pragma once

#include <memory>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "worker/trainer/models/model.h"
#include "worker/trainer/safetensors.h"

namespace ham::trainer {

class PeerNetwork {
 public:
  // The weights are of the type of x in the file.
  explicit PeerNetwork(Safetensors in);

  const Model& model() const { return *model_; }
  ParameterSet& weights() { return *weights_; }
  const ParameterSet& weights() const { return *weights_; }

  bool Has(const std::string& tensor) const { return in_.tensors.contains(tensor); }
  const at::Tensor& Get(const std::string& tensor) const { return in_.tensors.at(tensor); }
  // In the trainer's layout.
  at::Tensor Images(const std::string& tensor) const { return Images(Get(tensor)); }
  at::Tensor Images(const at::Tensor& values) const;

  // Of the metadata.
  const std::string& Text(const std::string& key) const;
  int64_t Int(const std::string& key) const;
  double Real(const std::string& key) const;

 private:
  Safetensors in_;
  std::unique_ptr<Model> model_;
  std::optional<ParameterSet> weights_;
};

// Throws what the status says.
void Require(const absl::Status& status);

}  // namespace ham::trainer
