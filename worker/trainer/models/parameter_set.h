// The numbers of a model in one flat buffer, with a named tensor for each.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "worker/trainer/safetensors.h"

namespace ham::trainer {

// Calls `work` with a float or a double, whichever numbers of type `type` (kFloat or kDouble) are.
template <typename Work>
decltype(auto) VisitReal(at::ScalarType type, Work&& work) {
  return type == at::kDouble ? std::forward<Work>(work)(double{}) : std::forward<Work>(work)(float{});
}

enum class ParameterKind {
  kWeight,     // of a convolution or a linear layer
  kBias,       // of these
  kNorm,       // scale or shift of a BatchNorm
  kStatistic,  // running mean or variance of a BatchNorm: not trained by gradients
  kClassBias,  // added to the logits: likewise (models/model.h)
};

// A parameter as the reference model in PyTorch has it.
struct ParameterSpec {
  // Values before training.
  struct Initial {
    enum Kind { kUniform, kNormal, kConstant } kind = kConstant;
    double value = 0;  // uniform: in +-value; normal: standard deviation; constant: itself
  };
  std::string name;            // "conv1.weight"
  std::vector<int64_t> shape;  // as in the reference
  // Shape of the tensor the model computes with, of as many elements; a 4-D one lies channels_last in the
  // buffer. Equals `shape` but for a fully connected layer behind an image, which is [out, C, H, W].
  std::vector<int64_t> compute_shape;
  ParameterKind kind = ParameterKind::kWeight;
  Initial initial;
};

// Kaiming uniform with a = sqrt(5): uniform in +-1 / sqrt(fan_in), weights and biases alike.
ParameterSpec::Initial PyTorchDefault(int64_t fan_in);

inline constexpr char kClassBiasName[] = "class_bias";
ParameterSpec ClassBiasSpec(int64_t classes);

// Numbers are float32, or float64 where asked for. Statistics and the class bias come last, so that what gradients
// train is a prefix of the buffer. Copies share the buffer, as tensors do; Clone() does not. No thread rule of its own.
class ParameterSet {
 public:
  // Zeros, of this type and on this device.
  explicit ParameterSet(const std::vector<ParameterSpec>& specs, const at::TensorOptions& options = at::kFloat);
  // On `flat`, of ParameterCount(specs) elements, contiguous.
  ParameterSet(const std::vector<ParameterSpec>& specs, const at::Tensor& flat);

  // A function of (seed, position in the list); in float64 the float32 numbers.
  void Initialize(uint64_t seed);

  at::ScalarType type() const { return flat_.scalar_type(); }
  at::Device device() const { return flat_.device(); }
  // Both.
  at::TensorOptions options() const { return flat_.options(); }
  const at::Tensor& flat() const { return flat_; }
  int64_t size() const;
  // Elements that gradients train.
  int64_t trained_size() const { return trained_size_; }
  // Of them behind that, the running statistics.
  int64_t statistics_size() const { return statistics_size_; }
  // These, one after the other.
  at::Tensor statistics() const { return flat_.narrow(0, trained_size_, statistics_size_); }
  // [K]; it is the last parameter.
  const at::Tensor& class_bias() const { return tensors_.back(); }
  const std::vector<ParameterSpec>& specs() const { return specs_; }
  // Parameter i in its compute_shape.
  const at::Tensor& operator[](size_t i) const { return tensors_[i]; }

  ParameterSet Clone() const;

  // Copies on the host in reference names and shapes, strided as they lie here, `prefix` before each name; float32 and
  // float64 as they are. Returns the copy of the whole buffer that they are views of. Its memory is kept, and used
  // again by the next call where all of these are gone by then.
  at::Tensor Export(const std::string& prefix, TensorMap* out) const;
  // The other way round, from any floating-point type. InvalidArgument names a tensor that is missing or of another
  // shape or dtype.
  absl::Status Import(const std::string& prefix, const TensorMap& in);

 private:
  std::vector<ParameterSpec> specs_;
  at::Tensor flat_;
  int64_t trained_size_ = 0;
  int64_t statistics_size_ = 0;
  std::vector<at::Tensor> tensors_;
  mutable at::Tensor copy_;  // the last Export's
};

// Name of the first parameter with a number that is not finite; "" if there is none.
std::string FirstNonFinite(const ParameterSet& set);

int64_t ParameterCount(const std::vector<ParameterSpec>& specs);
// Of those that gradients train.
int64_t TrainedCount(const std::vector<ParameterSpec>& specs);

}  // namespace ham::trainer
