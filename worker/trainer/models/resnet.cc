// ResNet-18 for small images (names as in the usual PyTorch files).
#include <memory>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>

#include "absl/strings/str_cat.h"
#include "worker/trainer/models/autograd_model.h"
#include "worker/trainer/models/networks.h"

namespace ham::trainer {
namespace {

struct BasicBlock {
  ConvolutionLayer conv1, conv2;
  BatchNormLayer bn1, bn2;
  ConvolutionLayer shortcut;  // 1x1, with a BatchNorm; weight kNone where sizes agree
  BatchNormLayer shortcut_bn;
};

class ResNet18 : public AutogradModel {
 public:
  ResNet18(const ModelOptions& options, int64_t width) : AutogradModel(options) {
    LayerList layers;
    conv1_ = layers.Convolution("conv1", options.image.channels, width, 3, 1, 1);
    bn1_ = layers.BatchNorm("bn1", width);
    int64_t in = width;
    for (int stage = 0; stage < 4; ++stage) {
      const int64_t out = width << stage;
      for (int block = 0; block < 2; ++block) {
        const int64_t stride = stage > 0 && block == 0 ? 2 : 1;
        const std::string name = absl::StrCat("layer", stage + 1, ".", block, ".");
        BasicBlock& next = blocks_.emplace_back();
        next.conv1 = layers.Convolution(name + "conv1", in, out, 3, stride, 1);
        next.bn1 = layers.BatchNorm(name + "bn1", out);
        next.conv2 = layers.Convolution(name + "conv2", out, out, 3, 1, 1);
        next.bn2 = layers.BatchNorm(name + "bn2", out);
        if (stride != 1) {
          next.shortcut = layers.Convolution(name + "shortcut.0", in, out, 1, stride, 0);
          next.shortcut_bn = layers.BatchNorm(name + "shortcut.1", out);
        }
        in = out;
      }
    }
    linear_ = layers.Linear("linear", in, options.classes);
    SetLayers(layers);
  }

 private:
  at::Tensor Forward(const ForwardPass& pass, at::Tensor x) const override {
    x = pass.NormalizeAndActivate(pass.Convolve(x, conv1_), bn1_);
    for (const BasicBlock& block : blocks_) {
      const at::Tensor inner = pass.NormalizeAndActivate(pass.Convolve(x, block.conv1), block.bn1);
      const at::Tensor shortcut =
          block.shortcut.weight == kNone ? x : pass.Normalize(pass.Convolve(x, block.shortcut), block.shortcut_bn);
      x = pass.Activate(pass.Normalize(pass.Convolve(inner, block.conv2), block.bn2) + shortcut);
    }
    return pass.Linear(pass.PoolAll(x), linear_);
  }

  ConvolutionLayer conv1_;
  BatchNormLayer bn1_;
  std::vector<BasicBlock> blocks_;
  LinearLayer linear_;
};

}  // namespace

std::unique_ptr<Model> MakeResNet18(const ModelOptions& options, int64_t width) {
  return std::make_unique<ResNet18>(options, width);
}

}  // namespace ham::trainer
