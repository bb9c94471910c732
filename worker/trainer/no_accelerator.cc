// Linked into ham-trainer in place of worker/trainer/cuda.
#include "worker/trainer/accelerator.h"
#include "worker/trainer/models/channel_ops.h"

namespace ham::trainer {

absl::StatusOr<std::unique_ptr<Accelerator>> MakeAccelerator() { return nullptr; }

const ChannelOps* CudaChannelOps() { return nullptr; }

}  // namespace ham::trainer
