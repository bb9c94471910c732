// PreActResNet-18 for small images, with the final BatchNorm (He et al., 2016; names as in the usual PyTorch files).
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/trainer/models/autograd_model.h"
#include "worker/trainer/models/networks.h"

namespace ham::trainer {
namespace {

struct PreActBlock {
  BatchNormLayer bn1, bn2;
  ConvolutionLayer conv1, conv2;
  ConvolutionLayer shortcut;  // 1x1, of the activated input; weight kNone where sizes agree
};

class PreActResNet18 : public AutogradModel {
 public:
  PreActResNet18(const ModelOptions& options, int64_t width) : AutogradModel(options) {
    LayerList layers;
    conv1_ = layers.Convolution("conv1", options.image.channels, width, 3, 1, 1);
    int64_t in = width;
    for (int stage = 0; stage < 4; ++stage) {
      const int64_t out = width << stage;
      for (int block = 0; block < 2; ++block) {
        const int64_t stride = stage > 0 && block == 0 ? 2 : 1;
        const std::string name = absl::StrCat("layer", stage + 1, ".", block, ".");
        PreActBlock& next = blocks_.emplace_back();
        next.bn1 = layers.BatchNorm(name + "bn1", in);
        next.conv1 = layers.Convolution(name + "conv1", in, out, 3, stride, 1);
        next.bn2 = layers.BatchNorm(name + "bn2", out);
        next.conv2 = layers.Convolution(name + "conv2", out, out, 3, 1, 1);
        if (stride != 1 || in != out) next.shortcut = layers.Convolution(name + "shortcut.0", in, out, 1, stride, 0);
        in = out;
      }
    }
    bn_ = layers.BatchNorm("bn", in);
    linear_ = layers.Linear("linear", in, options.classes);
    SetLayers(layers);
  }

 private:
  at::Tensor Forward(const ForwardPass& pass, at::Tensor x) const override {
    x = pass.Convolve(x, conv1_);
    at::Tensor activated = pass.NormalizeAndActivate(x, blocks_[0].bn1);
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const PreActBlock& block = blocks_[i];
      const at::Tensor shortcut = block.shortcut.weight == kNone ? x : pass.Convolve(activated, block.shortcut);
      const at::Tensor inner = pass.NormalizeAndActivate(pass.Convolve(activated, block.conv1), block.bn2);
      const BatchNormLayer& next = i + 1 < blocks_.size() ? blocks_[i + 1].bn1 : bn_;
      ForwardPass::Residual residual = pass.AddNormalizeAndActivate(pass.Convolve(inner, block.conv2), shortcut, next);
      x = std::move(residual.sum);
      activated = std::move(residual.activated);
    }
    return pass.Linear(pass.PoolAll(activated), linear_);
  }

  ConvolutionLayer conv1_;
  std::vector<PreActBlock> blocks_;
  BatchNormLayer bn_;
  LinearLayer linear_;
};

}  // namespace

std::unique_ptr<Model> MakePreActResNet18(const ModelOptions& options, int64_t width) {
  return std::make_unique<PreActResNet18>(options, width);
}

}  // namespace ham::trainer
