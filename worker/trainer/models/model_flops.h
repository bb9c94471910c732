// What passes over images cost.
#pragma once

#include <cstdint>
#include <vector>

namespace ham::trainer {

// Through the network alone; also back to the image; or also back to the weights.
enum Pass { kForwardPass, kInputGradientPass, kTrainingPass, kPasses };

// Floating-point operations for one image: two for each multiply-add of convolutions and linear layers, those with
// zeros and with the frame of padding included; nothing else is counted. A program that leaves out zeros can so seem to
// do more than its device can.
struct ModelFlops {
  int64_t forward = 0;
  int64_t first_layer = 0;  // of these, of the layer that sees the image

  // Back to its input, and back to its weights, a layer costs as much as forward. Training goes back to the weights of
  // all layers, but not to the image.
  int64_t Of(Pass pass) const {
    return pass == kForwardPass ? forward : pass == kInputGradientPass ? 2 * forward : 3 * forward - first_layer;
  }
  // passes: [kPasses] images that took each.
  double OfAll(const std::vector<int64_t>& passes) const {
    double sum = 0;
    for (int pass = 0; pass < kPasses; ++pass) {
      sum += static_cast<double>(passes[pass]) * static_cast<double>(Of(static_cast<Pass>(pass)));
    }
    return sum;
  }
};

}  // namespace ham::trainer
