#include "worker/trainer/recorder.h"

#include <algorithm>

namespace ham::trainer {
namespace {

// Each holds some megabytes of the device. Sizes of batches of hard rows wander: the oldest ones do not come back.
constexpr size_t kMostKnown = 64;

}  // namespace

void Recorder::Run(const std::string& name, const std::function<void()>& work) {
  if (accelerator_ == nullptr) return work();
  const bool is_new = !known_.contains(name);
  if (is_new && known_.size() == kMostKnown) {
    known_.erase(std::ranges::min_element(known_, {}, [](const auto& one) { return one.second.last_run; }));
  }
  Known& known = known_[name];
  known.last_run = ++runs_;
  if (is_new) return work();
  if (known.recorded == nullptr) known.recorded = accelerator_->Record(work);
  known.recorded->Replay();
}

}  // namespace ham::trainer
