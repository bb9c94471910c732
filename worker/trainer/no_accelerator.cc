// Linked into ham-trainer in place of worker/trainer/cuda.
#include "worker/trainer/accelerator.h"

namespace ham::trainer {

absl::StatusOr<std::unique_ptr<Accelerator>> MakeAccelerator() { return nullptr; }

}  // namespace ham::trainer
