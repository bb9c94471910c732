#include "worker/trainer/input_pipeline.h"

#include <utility>

namespace ham::trainer {

void InputPipeline::Prepare(int epoch, std::vector<uint32_t> ids) {
  if (ahead_.valid()) ahead_.wait();
  ahead_epoch_ = epoch;
  ahead_ids_ = std::move(ids);
  ahead_ = std::async(std::launch::async, [this] { return Make(ahead_epoch_, ahead_ids_); });
}

InputPipeline::Inputs InputPipeline::Take(int epoch, const std::vector<uint32_t>& ids) {
  if (!ahead_.valid() || epoch != ahead_epoch_ || ids != ahead_ids_) return Make(epoch, ids);
  return ahead_.get();
}

InputPipeline::Inputs InputPipeline::Make(int epoch, const std::vector<uint32_t>& ids) const {
  const AugmentationKey key{.seed = seed_, .epoch = static_cast<uint32_t>(epoch)};
  Inputs out{GatherAugmented(data_, ids, options_, key, rows_), {}};
  if (device_.noise != nullptr) out.noise = device_.noise(epoch, ids);
  if (!device_.pinned) return out;
  for (at::Tensor* const tensor : {&out.batch.x, &out.batch.targets, &out.noise}) {
    if (tensor->defined()) *tensor = tensor->pin_memory();
  }
  return out;
}

}  // namespace ham::trainer
