// Training images varied on the fly, as a function of (seed, epoch, row): the same for any number of ranks, any order
// of rows, any batch. Stateless; safe from any thread.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "worker/trainer/data/augmentation_options.h"
#include "worker/trainer/data/image_set.h"

namespace ham::trainer {

// What the random choices of an image depend on beside its row number.
struct AugmentationKey {
  uint64_t seed = 0;
  uint32_t epoch = 0;
};

// InvalidArgument names the option, its value and what images of height x width allow: a crop_padding from 0 to half
// the shorter side, a cutout from 0 to the longer side.
absl::Status CheckAugmentation(const AugmentationOptions& options, int64_t height, int64_t width);

// Writes images `ids` to out, [ids.size(), H, W, C] float32: bytes divided by 255 (rounded once, as the division is).
// In this order: crop, flip, cutout. Of crop_padding p, the crop's upper left corner is uniform in [0, 2p] x [0, 2p] of
// the padded image; reflection does not repeat the border pixel. The cutout's centre is a uniform pixel; the square
// [centre - side / 2, centre - side / 2 + side) is clipped at the border. `options` must have passed CheckAugmentation;
// C is 1 or 3. C is 1 or 3.
void WriteImages(const ImageSet& data, std::span<const uint32_t> ids, const AugmentationOptions& options,
                 const AugmentationKey& key, float* out);

}  // namespace ham::trainer
