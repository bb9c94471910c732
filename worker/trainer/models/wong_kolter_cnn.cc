// The small CNN of robust MNIST weights that are passed around (Wong and Kolter, 2018).
#include <memory>

#include "worker/trainer/models/autograd_model.h"
#include "worker/trainer/models/networks.h"

namespace ham::trainer {
namespace {

class WongKolterCnn : public AutogradModel {
 public:
  WongKolterCnn(const ModelOptions& options, int64_t width, int64_t hidden) : AutogradModel(options) {
    LayerList layers;
    conv1_ = layers.Convolution("0", options.image.channels, width, 4, 2, 1, /*bias=*/true);
    conv2_ = layers.Convolution("2", width, 2 * width, 4, 2, 1, /*bias=*/true);
    fc1_ = layers.LinearOfImage("5", {2 * width, options.image.height / 4, options.image.width / 4}, hidden);
    fc2_ = layers.Linear("7", hidden, options.classes);
    SetLayers(layers);
  }

 private:
  at::Tensor Forward(const ForwardPass& pass, at::Tensor x) const override {
    x = pass.Activate(pass.Convolve(pass.Activate(pass.Convolve(x, conv1_)), conv2_));
    return pass.Linear(pass.Activate(pass.Linear(x, fc1_)), fc2_);
  }

  ConvolutionLayer conv1_, conv2_;
  LinearLayer fc1_, fc2_;
};

}  // namespace

std::unique_ptr<Model> MakeWongKolterCnn(const ModelOptions& options, int64_t width, int64_t hidden) {
  return std::make_unique<WongKolterCnn>(options, width, hidden);
}

}  // namespace ham::trainer
