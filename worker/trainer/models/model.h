// What the attack, the evaluation and the training step need of a network.
//
// N: rows, C, H, W: channels, height, width, K: classes. Images are float32 in [0, 1], laid out as NewImages()
// makes them; normalisation, if any, is inside the model. Every call works on kMinimumRows rows or more: then a
// row's logits and input gradient do not depend, to the last bit, on the rows beside it (smaller batches take
// other code paths); callers pad (batch.h). LibTorch's exceptions pass through.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "worker/trainer/models/parameter_set.h"

namespace ham::trainer {

inline constexpr int64_t kMinimumRows = 16;

struct ImageShape {
  int64_t channels = 1;
  int64_t height = 28;
  int64_t width = 28;
  int64_t size() const { return channels * height * width; }
};

// [rows, C, H, W] float32, not initialised, in real channels_last strides {CHW, 1, WC, C}. With one channel
// LibTorch's own conversion would leave NCHW strides, and convolutions then take the slow path.
at::Tensor NewImages(int64_t rows, const ImageShape& shape);

// Gradient of a SUM of losses over rows with respect to the logits: [N, K] -> [N, K] float32.
using LogitsGradient = std::function<at::Tensor(const at::Tensor& logits)>;

// Immutable; safe from any thread as long as the weights are not written meanwhile.
class Model {
 public:
  virtual ~Model() = default;
  virtual const std::vector<ParameterSpec>& parameters() const = 0;
  virtual const ImageShape& image_shape() const = 0;
  virtual int64_t classes() const = 0;

  // [N, C, H, W] -> [N, K]
  virtual at::Tensor Logits(const ParameterSet& weights, const at::Tensor& x) const = 0;
  // Gradient with respect to x, in the layout of x. Computes no gradient of weights.
  virtual at::Tensor InputGradient(const ParameterSet& weights, const at::Tensor& x,
                                   const LogitsGradient& loss) const = 0;
  // Writes the gradient with respect to the weights (summed over rows) into `gradients`; returns the logits.
  virtual at::Tensor WeightGradients(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss,
                                     ParameterSet* gradients) const = 0;
};

// The model of that name for images of `shape`. InvalidArgument lists the known names, or says which images
// the model takes.
absl::StatusOr<std::unique_ptr<Model>> MakeModel(const std::string& name, const ImageShape& shape, int64_t classes);

}  // namespace ham::trainer
