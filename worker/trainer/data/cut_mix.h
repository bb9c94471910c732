// Boxes of other images in training images, labels mixed by area (CutMix, Yun et al. 2019), as a function of (seed,
// epoch, row): the same for any number of ranks and any batch. Stateless; safe from any thread.
#pragma once

#include <cstdint>
#include <span>

#include "worker/trainer/data/augmentation.h"

namespace ham::trainer {

struct CutMixBox {
  uint32_t partner = 0;                              // row whose pixels are in the box
  int64_t top = 0, bottom = 0, left = 0, right = 0;  // [top, bottom) x [left, right); empty where nothing is mixed

  bool empty() const { return top >= bottom || left >= right; }
};

// What happens to row `id`, an image of height x width pixels: with probability `share` a box whose sides are
// sqrt(1 - lambda) of the image's, lambda uniform in [0, 1), around a uniform pixel, clipped at the border. The partner
// is uniform among `partners`, not empty; it may be the row itself.
CutMixBox ChooseCutMix(double share, const AugmentationKey& key, uint32_t id, std::span<const uint32_t> partners,
                       int64_t height, int64_t width);

}  // namespace ham::trainer
