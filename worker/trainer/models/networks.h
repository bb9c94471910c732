// Makers of the networks that registry.cc knows by name, one file each.
#pragma once

#include <cstdint>
#include <memory>

#include "worker/trainer/models/autograd_model.h"

namespace ham::trainer {

// `width`: channels of the first stage, 64 as published; the others have 2, 4 and 8 times as many. He et al., 2016, in
// the forms for CIFAR: 3x3 first, no pooling there. Pre-activation has a BatchNorm behind the last block.
std::unique_ptr<Model> MakePreActResNet18(const ModelOptions& options, int64_t width = 64);
std::unique_ptr<Model> MakeResNet18(const ModelOptions& options, int64_t width = 64);

// Zagoruyko and Komodakis, 2016, without dropout. `depth`: 6 n + 4 for n blocks in each of 3 stages, of 16, 32 and 64
// times `widen` channels; the first convolution has `first` channels, 16 as published. options.extra_block: a copy of
// the first stage, named sub_block1, that no image passes: in some published files (TRADES and its descendants) it
// counts for weight decay alone.
std::unique_ptr<Model> MakeWideResNet(const ModelOptions& options, int64_t depth, int64_t widen, int64_t first = 16);

// The small CNN of Wong and Kolter, 2018: convolutions 4x4 with stride 2 to `width` and twice as many channels,
// `hidden` units. Names are the places in its nn.Sequential. Height and width of images are multiples of 4.
std::unique_ptr<Model> MakeWongKolterCnn(const ModelOptions& options, int64_t width = 16, int64_t hidden = 100);

}  // namespace ham::trainer
