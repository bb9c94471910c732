// WideResNet (names as in the usual PyTorch files).
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/trainer/models/autograd_model.h"
#include "worker/trainer/models/networks.h"

namespace ham::trainer {
namespace {

struct WideBlock {
  BatchNormLayer bn1, bn2;
  ConvolutionLayer conv1, conv2;
  ConvolutionLayer shortcut;  // 1x1, of the activated input; weight kNone where channels agree
};

class WideResNet : public AutogradModel {
 public:
  WideResNet(const ModelOptions& options, int64_t depth, int64_t widen, int64_t first) : AutogradModel(options) {
    LayerList layers(Initialization::kKaimingOut);
    conv1_ = layers.Convolution("conv1", options.image.channels, first, 3, 1, 1);
    int64_t in = first;
    for (int stage = 0; stage < 3; ++stage) {
      const int64_t out = (16 * widen) << stage;
      const std::string name = absl::StrCat("block", stage + 1);
      const std::vector<WideBlock> added = AddStage(&layers, name, in, out, stage > 0 ? 2 : 1, (depth - 4) / 6);
      blocks_.insert(blocks_.end(), added.begin(), added.end());
      if (stage == 0 && options.extra_block) AddStage(&layers, "sub_" + name, in, out, 1, (depth - 4) / 6);
      in = out;
    }
    bn1_ = layers.BatchNorm("bn1", in);
    fc_ = layers.Linear("fc", in, options.classes);
    SetLayers(layers);
  }

 private:
  static std::vector<WideBlock> AddStage(LayerList* layers, const std::string& stage, int64_t in, int64_t out,
                                         int64_t stride, int64_t blocks) {
    std::vector<WideBlock> added;
    for (int64_t block = 0; block < blocks; ++block, in = out, stride = 1) {
      const std::string name = absl::StrCat(stage, ".layer.", block, ".");
      WideBlock& next = added.emplace_back();
      next.bn1 = layers->BatchNorm(name + "bn1", in);
      next.conv1 = layers->Convolution(name + "conv1", in, out, 3, stride, 1);
      next.bn2 = layers->BatchNorm(name + "bn2", out);
      next.conv2 = layers->Convolution(name + "conv2", out, out, 3, 1, 1);
      if (in != out) next.shortcut = layers->Convolution(name + "convShortcut", in, out, 1, stride, 0);
    }
    return added;
  }

  at::Tensor Forward(const ForwardPass& pass, at::Tensor x) const override {
    x = pass.Convolve(x, conv1_);
    at::Tensor activated = pass.NormalizeAndActivate(x, blocks_[0].bn1);
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const WideBlock& block = blocks_[i];
      const at::Tensor shortcut = block.shortcut.weight == kNone ? x : pass.Convolve(activated, block.shortcut);
      const at::Tensor inner = pass.NormalizeAndActivate(pass.Convolve(activated, block.conv1), block.bn2);
      const BatchNormLayer& next = i + 1 < blocks_.size() ? blocks_[i + 1].bn1 : bn1_;
      ForwardPass::Residual residual = pass.AddNormalizeAndActivate(pass.Convolve(inner, block.conv2), shortcut, next);
      x = std::move(residual.sum);
      activated = std::move(residual.activated);
    }
    return pass.Linear(pass.PoolAll(activated), fc_);
  }

  ConvolutionLayer conv1_;
  std::vector<WideBlock> blocks_;
  BatchNormLayer bn1_;
  LinearLayer fc_;
};

}  // namespace

std::unique_ptr<Model> MakeWideResNet(const ModelOptions& options, int64_t depth, int64_t widen, int64_t first) {
  return std::make_unique<WideResNet>(options, depth, widen, first);
}

}  // namespace ham::trainer
