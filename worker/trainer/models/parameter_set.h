// The numbers of a model in one flat buffer, with a named tensor for each parameter.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "worker/trainer/safetensors.h"

namespace ham::trainer {

// A parameter as the reference model in PyTorch has it.
struct ParameterSpec {
  std::string name;            // "conv1.weight"
  std::vector<int64_t> shape;  // as in the reference
  int64_t fan_in = 1;          // inputs of one output unit; sets the range of the initial values
  // Shape of the tensor the model computes with, of as many elements; a 4-D one lies channels_last in the
  // buffer. Equals `shape` but for a fully connected layer behind an image, which is [out, C, H, W].
  std::vector<int64_t> compute_shape;
};

// Copies share the buffer, as tensors do; Clone() does not. No thread rule of its own.
class ParameterSet {
 public:
  // Zeros.
  explicit ParameterSet(const std::vector<ParameterSpec>& specs);
  // On `flat`, float32 of ParameterCount(specs) elements, contiguous.
  ParameterSet(const std::vector<ParameterSpec>& specs, const at::Tensor& flat);

  // Kaiming uniform with a = sqrt(5), PyTorch's default: uniform in +-1 / sqrt(fan_in), weights and biases alike.
  void Initialize(uint64_t seed);

  const at::Tensor& flat() const { return flat_; }
  float* data() const;
  int64_t size() const;
  // Parameter i in its compute_shape.
  const at::Tensor& operator[](size_t i) const { return tensors_[i]; }

  ParameterSet Clone() const;

  // Copies in reference names and shapes, `prefix` before each name.
  void Export(const std::string& prefix, TensorMap* out) const;
  // The other way round. InvalidArgument names a tensor that is missing or of another shape or dtype.
  absl::Status Import(const std::string& prefix, const TensorMap& in);

 private:
  std::vector<ParameterSpec> specs_;
  at::Tensor flat_;
  std::vector<at::Tensor> tensors_;
};

int64_t ParameterCount(const std::vector<ParameterSpec>& specs);

}  // namespace ham::trainer
