// What the attack, the evaluation and the training step need of a network.
//
// N: rows, C, H, W: channels, height, width, K: classes. Images are in [0, 1], laid out as NewImages() makes them, of
// the weights' type; normalisation, if any, is inside the model. Every call works on kMinimumRows rows or more: then,
// in evaluation mode, a row's logits and input gradient do not depend, to the last bit, on the rows beside it (smaller
// batches take other code paths); callers pad (batch.h). LibTorch's exceptions pass through.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <nlohmann/json.hpp>
#include "absl/status/statusor.h"
#include "worker/trainer/collective.h"
#include "worker/trainer/data/normalization.h"
#include "worker/trainer/models/activation.h"
#include "worker/trainer/models/model_flops.h"
#include "worker/trainer/models/parameter_set.h"

namespace ham::trainer {

inline constexpr int64_t kMinimumRows = 16;

struct ImageShape {
  int64_t channels = 1;
  int64_t height = 28;
  int64_t width = 28;
  int64_t size() const { return channels * height * width; }
};

// [rows, C, H, W], not initialised, in real channels_last strides {CHW, 1, WC, C}. With one channel
// LibTorch's own conversion would leave NCHW strides, and convolutions then take the slow path.
at::Tensor NewImages(int64_t rows, const ImageShape& shape, const at::TensorOptions& options = at::kFloat);

// Of images [N, C, H, W].
inline ImageShape ShapeOf(const at::Tensor& images) { return {images.size(1), images.size(2), images.size(3)}; }

// A tensor [N, ...] whose rows lie one after the other, as images of NewImages(): [N, elements of a row], the same
// memory.
at::Tensor AsRows(const at::Tensor& tensor);

// Gradient of a SUM of losses over rows with respect to the logits: [N, K] -> [N, K] of the same type.
using LogitsGradient = std::function<at::Tensor(const at::Tensor& logits)>;

// Training mode: BatchNorm normalises by the mean and the biased variance of the batch, not by running statistics.
// Where the ranks are `collective`, all of them make the same passes and the batch is that of all (synchronised
// BatchNorm: two small sums a layer, one forward and one backward); a rank without a row joins with padding alone.
struct TrainingPass {
  int64_t rows = 0;  // true ones; the rest is padding, which no statistic sees
  // On a device: [1] int64, so many of them; where it stands, `rows` is only the most that they may be.
  at::Tensor rows_on_device = {};
  Collective* collective = nullptr;    // null: the statistics of this rank's rows ("local"), another algorithm
  ParameterSet* statistics = nullptr;  // gets mean and unbiased variance of the batch in place of the running ones
  absl::Status status{};               // of the collective; after an error the numbers mean nothing
  bool has_rows = false;  // set by a BatchNorm that saw a row, of any rank; else `statistics` means nothing
};

// A network whose weights stand still while it is attacked, in evaluation mode: only gradients of images are asked for.
// What can be done once for all of an attack is done by Refresh(): weights in the type of the computation, BatchNorm as
// a scale and a shift. It proposes perturbations; whether a sample is broken is for Model::Logits() to say.
//
// All but Refresh() may be called from any thread, not during it. They read nothing back from a device, and Refresh()
// writes to the same memory each time, so that a recording of it (accelerator.h) stays good.
class FrozenNetwork {
 public:
  virtual ~FrozenNetwork() = default;
  // Takes over weights of the type and on the device of those that Model::Freeze() saw.
  void Refresh(const ParameterSet& weights);
  // As Model::InputGradient() in evaluation mode, but for rounding.
  at::Tensor InputGradient(const at::Tensor& x, const LogitsGradient& loss) const;
  // Those that InputGradient() shows to the loss.
  at::Tensor Logits(const at::Tensor& x) const;
  // Whether it computes in a lower precision than its weights have.
  bool rounds() const { return rounds_; }

 protected:
  // compute: type of the layers beside float32 weights.
  FrozenNetwork(const std::optional<Normalization>& normalization, const ParameterSet& weights, at::ScalarType compute);
  virtual void DoRefresh(const ParameterSet& weights) = 0;
  // Of normalised images, without the class bias.
  virtual at::Tensor DoInputGradient(const at::Tensor& x, const LogitsGradient& loss) const = 0;
  virtual at::Tensor DoLogits(const at::Tensor& x) const = 0;

 private:
  at::Tensor Normalize(const at::Tensor& x) const;

  const bool rounds_;
  at::Tensor class_bias_;
  at::Tensor mean_, deviation_;  // [1, C, 1, 1], undefined without normalisation
};

// Immutable; safe from any thread as long as the weights are not written meanwhile.
//
// The last trained parameter is the bias of the output layer, [K]. The last parameter of all is the class bias
// (kClassBias), [K]: it is added to what the network says, by no gradient trained, and folded into the former in
// exported files.
class Model {
 public:
  virtual ~Model() = default;
  virtual const std::vector<ParameterSpec>& parameters() const = 0;
  virtual const ImageShape& image_shape() const = 0;
  virtual int64_t classes() const = 0;
  virtual ModelFlops flops() const = 0;
  const std::optional<Normalization>& normalization() const { return normalization_; }

  // [N, C, H, W] -> [N, K]; evaluation mode.
  at::Tensor Logits(const ParameterSet& weights, const at::Tensor& x) const;
  // Gradient with respect to x, in the layout of x. Computes no gradient of weights. Evaluation mode if `training` is
  // null; else the padding counts for nothing, and the gradient passes through the statistics of the batch.
  at::Tensor InputGradient(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss,
                           TrainingPass* training = nullptr) const;
  // Training mode. Writes the gradient with respect to the trained weights (summed over this rank's rows) into
  // `gradients`, and what the pass found out about the batch; leaves the class bias there alone.
  void WeightGradients(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss,
                       TrainingPass* training, ParameterSet* gradients) const;
  // With these weights, until its next Refresh(). The model outlives it.
  std::unique_ptr<FrozenNetwork> Freeze(const ParameterSet& weights) const;

 protected:
  explicit Model(const std::optional<Normalization>& normalization) : normalization_(normalization) {}
  // The same of the network, of normalised images and without the class bias.
  virtual at::Tensor DoLogits(const ParameterSet& weights, const at::Tensor& x) const = 0;
  virtual at::Tensor DoInputGradient(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss,
                                     TrainingPass* training) const = 0;
  virtual void DoWeightGradients(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss,
                                 TrainingPass* training, ParameterSet* gradients) const = 0;
  // Not yet refreshed.
  virtual std::unique_ptr<FrozenNetwork> DoFreeze(const ParameterSet& weights) const = 0;

 private:
  at::Tensor Normalize(const at::Tensor& x) const;

  const std::optional<Normalization> normalization_;
};

// What every such model can be made with.
struct ModelOptions {
  ImageShape image;
  int64_t classes = 10;
  Activation activation = Activation::kRelu;
  std::optional<Normalization> normalization = {};
  // Of convolutions and linear layers in InputGradient and WeightGradients, frozen or not, over float32 weights: kFloat
  // or kBFloat16. Over float64 weights, and in Logits(), all is of the weights' type.
  at::ScalarType compute = at::kFloat;
  // WideResNet's: see networks.h.
  bool extra_block = false;
};

// Name of the output layer's bias.
const std::string& OutputBias(const Model& model);

// {"mean": [...], "standard_deviation": [...]}; an empty object where there is none.
nlohmann::json NormalizationJson(const Model& model);

// The model of that name. InvalidArgument lists the known names, or says which images or options the model takes.
absl::StatusOr<std::unique_ptr<Model>> MakeModel(const std::string& name, const ModelOptions& options);

struct ModelInfo {
  std::string name;
  int64_t parameters;  // trained ones, for 10 classes of images of `images`
  ImageShape images;   // of the data sets it is usually used with
  std::string takes;   // which images it takes
  std::string description;
};

// All models, in the order of their table.
std::vector<ModelInfo> KnownModels();

}  // namespace ham::trainer
