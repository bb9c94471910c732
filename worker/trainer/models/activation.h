// Activation functions of networks.
#pragma once

namespace ham::trainer {

enum class Activation { kRelu, kSilu };

}  // namespace ham::trainer
