// Layers of networks whose gradients autograd takes: their numbers in a ParameterSet, and one pass over them.
//
// A model lists its layers once, with a LayerList, and walks through them in Forward() of autograd_model.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/trainer/models/model.h"
#include "worker/trainer/models/parameter_set.h"

namespace ham::trainer {

// Square kernels. `bias` is kNone where there is none. The numbers are places in the list of parameters.
inline constexpr int64_t kNone = -1;
struct ConvolutionLayer {
  int64_t weight = kNone;
  int64_t bias = kNone;
  int64_t stride = 1;
  int64_t padding = 0;
};
struct LinearLayer {
  int64_t weight = kNone;
  int64_t bias = kNone;
};
// BatchNorm2d; its statistics are counted from the first of the list of statistics.
struct BatchNormLayer {
  int64_t scale = kNone;
  int64_t shift = kNone;
  int64_t mean = kNone;
  int64_t variance = kNone;
};

// How weights start.
enum class Initialization {
  kPyTorch,     // uniform in +-1 / sqrt(fan in), biases too
  kKaimingOut,  // convolutions normal with variance 2 / fan out, linear biases 0: WideResNet's
};

// Names are those of the reference model's state dict, without ".weight" and so on.
class LayerList {
 public:
  explicit LayerList(Initialization initialization = Initialization::kPyTorch) : initialization_(initialization) {}

  // A 1 x 1 kernel needs 8 channels in or more: below, oneDNN of LibTorch 2.11 writes past the end of the gradient.
  ConvolutionLayer Convolution(const std::string& name, int64_t in, int64_t out, int64_t kernel, int64_t stride,
                               int64_t padding, bool bias = false);
  BatchNormLayer BatchNorm(const std::string& name, int64_t channels);
  LinearLayer Linear(const std::string& name, int64_t in, int64_t out);
  // Behind an image [N, C, H, W], which the reference flattens in that order.
  LinearLayer LinearOfImage(const std::string& name, const ImageShape& in, int64_t out);

  // All of them, then the statistics, then the class bias. The layer added last is the output's, to `classes`.
  std::vector<ParameterSpec> Specs(int64_t classes) const;
  size_t trained() const { return trained_.size(); }
  const std::vector<BatchNormLayer>& batch_norms() const { return batch_norms_; }

 private:
  LinearLayer AddLinear(const std::string& name, int64_t in, int64_t out, const std::vector<int64_t>& compute_shape);

  const Initialization initialization_;
  std::vector<ParameterSpec> trained_;
  std::vector<ParameterSpec> statistics_;
  std::vector<BatchNormLayer> batch_norms_;
};

// One pass of a batch through the layers, in evaluation mode or, with a TrainingPass, in training mode. Convolutions
// and linear layers are computed in `compute`; all else in the weights' own type.
class ForwardPass {
 public:
  // `values`: the parameters in order, perhaps as leaves of autograd. All references outlive it.
  ForwardPass(const std::vector<at::Tensor>& values, size_t trained, TrainingPass* training, Activation activation,
              at::ScalarType compute)
      : values_(values), trained_(trained), training_(training), activation_(activation), compute_(compute) {}
  // Of a frozen network, in evaluation mode: weights and biases are of type `compute`, and a BatchNorm's scale and
  // shift are those of FoldBatchNorms(). Images between layers are of type `compute` too.
  static ForwardPass Frozen(const std::vector<at::Tensor>& values, size_t trained, Activation activation,
                            at::ScalarType compute);

  // Computes nothing but shapes, of tensors on the meta device, and adds each layer to `flops`.
  static ForwardPass Counting(const std::vector<at::Tensor>& values, ModelFlops* flops);

  at::Tensor Convolve(const at::Tensor& x, const ConvolutionLayer& layer) const;
  at::Tensor Normalize(const at::Tensor& x, const BatchNormLayer& layer) const;
  // Both in one pass over x where the network is frozen, and on a device.
  at::Tensor NormalizeAndActivate(const at::Tensor& x, const BatchNormLayer& layer) const;
  // The same of x + added; the sum too is a result. On a device one pass less than the two by themselves.
  struct Residual {
    at::Tensor sum, activated;
  };
  Residual AddNormalizeAndActivate(const at::Tensor& x, const at::Tensor& added, const BatchNormLayer& layer) const;
  // x: [N, in], or an image of a LinearOfImage.
  at::Tensor Linear(const at::Tensor& x, const LinearLayer& layer) const;
  at::Tensor Activate(const at::Tensor& x) const;
  // [N, C, H, W] -> [N, C]: mean over each image.
  at::Tensor PoolAll(const at::Tensor& x) const;

 private:
  // Adds the layer to flops_; returns its output.
  at::Tensor Count(const at::Tensor& weight, at::IntArrayRef output) const;
  const at::Tensor& Value(int64_t place) const { return values_[place]; }
  at::Tensor Weight(int64_t place) const { return values_[place].to(compute_); }
  // Where the batch's statistics of a layer go: in training mode.
  const at::Tensor& Statistic(int64_t place) const { return (*training_->statistics)[trained_ + place]; }
  // Whether BatchNorm and ReLU of a training pass are one on x's device.
  bool TrainsOnDevice(const at::Tensor& x) const;

  const std::vector<at::Tensor>& values_;
  const size_t trained_;
  TrainingPass* const training_;
  const Activation activation_;
  const at::ScalarType compute_;
  bool frozen_ = false;
  ModelFlops* flops_ = nullptr;  // if this only counts
};

// The BatchNorms of `layers` in evaluation mode as x * scale + shift, written to these places of `folded`. weights: the
// parameters in order, of which `trained` are no statistics.
void FoldBatchNorms(const ParameterSet& weights, size_t trained, const std::vector<BatchNormLayer>& layers,
                    std::vector<at::Tensor>* folded);

}  // namespace ham::trainer
