// What the engine makes of weights and images in a file, for comparison with PyTorch (pytorch_peer.py).
//
// A file holds the weights under the reference names behind "weights.", and in its metadata "model" and "width": 0 for
// the published one, else that of its maker (networks.h).
#pragma once

#include "worker/trainer/safetensors.h"

namespace ham::trainer {

// x [N, C, H, W] -> logits, and weights.NAME as the model exports them.
TensorMap EngineLogits(const Safetensors& in);

// Also y, start and, in the metadata, epsilon, step_size, steps, mining_step -> one HAM step: hard, x_adv (of hard
// rows), loss (mean), gradient.NAME, and after.NAME, the running statistics behind it. With x_0 ... x_K in the file (of
// hard rows from x_M on) each attack step starts from those -> next_1 ... next_K, one step on; the loss is that at x_K.
// `compute` in the metadata is "bf16" where the network computes in that. `seconds`, if given, gets those of the step
// alone, without what takes its numbers in and out.
TensorMap EngineStep(const Safetensors& in, double* seconds = nullptr);

}  // namespace ham::trainer
