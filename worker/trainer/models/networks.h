// Makers of the networks that registry.cc knows by name, one file each.
#pragma once

#include <cstdint>
#include <memory>

#include "worker/trainer/models/autograd_model.h"

namespace ham::trainer {

// `width`: channels of the first stage, 64 as published; the others have 2, 4 and 8 times as many.
std::unique_ptr<Model> MakePreActResNet18(const ModelOptions& options, int64_t width = 64);

}  // namespace ham::trainer
