#include "worker/trainer/input_pipeline.h"

#include <utility>

namespace ham::trainer {

void InputPipeline::Prepare(int epoch, std::vector<uint32_t> ids) {
  if (ahead_.valid()) ahead_.wait();
  ahead_epoch_ = epoch;
  ahead_ids_ = std::move(ids);
  ahead_ = std::async(std::launch::async, [this] { return Make(ahead_epoch_, ahead_ids_); });
}

Batch InputPipeline::Take(int epoch, const std::vector<uint32_t>& ids) {
  if (!ahead_.valid() || epoch != ahead_epoch_ || ids != ahead_ids_) return Make(epoch, ids);
  return ahead_.get();
}

Batch InputPipeline::Make(int epoch, const std::vector<uint32_t>& ids) const {
  return GatherAugmented(data_, ids, options_, {.seed = seed_, .epoch = static_cast<uint32_t>(epoch)}, rows_);
}

}  // namespace ham::trainer
