// What a pass over one image costs.
#pragma once

#include <cstdint>

namespace ham::trainer {

// Floating-point operations: two for each multiply-add of convolutions and linear layers, those with zeros and those
// with the frame of padding included. Nothing else is counted, and no row that only fills a batch up. A program that
// leaves out zeros can so seem to do more than its device can.
struct ModelFlops {
  int64_t forward = 0;
  int64_t first_layer = 0;  // of these, of the layer that sees the image

  // Each layer back to its input costs as much as forward.
  int64_t InputGradient() const { return 2 * forward; }
  // And back to its weights, too; none goes back to the image.
  int64_t Training() const { return 3 * forward - first_layer; }
};

}  // namespace ham::trainer
