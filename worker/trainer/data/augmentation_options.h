// How training images are varied: what a data set does by default and a job may change (augmentation.h applies it).
#pragma once

namespace ham::trainer {

enum class Padding { kZero, kReflect };

struct AugmentationOptions {
  int crop_padding = 0;  // pixels added at each side before a crop of the image's size at a random place; 0 = no crop
  Padding padding = Padding::kZero;
  bool flip = false;  // left to right, one image in two
  int cutout = 0;     // side in pixels of the square set to 0; 0 = none
  double cutmix = 0;  // share of images with a box from another one (cut_mix.h)

  bool operator==(const AugmentationOptions&) const = default;
};

}  // namespace ham::trainer
