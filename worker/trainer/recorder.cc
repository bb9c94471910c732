#include "worker/trainer/recorder.h"

#include <algorithm>

#include <c10/util/Exception.h>

namespace ham::trainer {
namespace {

// Each holds some megabytes of the device. Sizes of batches of hard rows wander: the oldest ones do not come back.
constexpr int kMostRecorded = 64;

}  // namespace

void Recorder::Run(const std::string& name, int times, const std::function<void()>& work) {
  if (accelerator_ == nullptr) return work();
  Known& known = known_[name];
  known.last_run = ++runs_;
  if (++known.times <= times || known.too_large) return work();
  if (known.recorded == nullptr) Record(work, &known);
  if (known.recorded == nullptr) return work();
  known.recorded->Replay();
}

void Recorder::Record(const std::function<void()>& work, Known* known) {
  std::vector<Known*> recorded;
  for (auto& [name, one] : known_) {
    if (one.recorded != nullptr) recorded.push_back(&one);
  }
  if (recorded.size() == kMostRecorded) (*std::ranges::min_element(recorded, {}, &Known::last_run))->recorded.reset();
  try {
    known->recorded = accelerator_->Record(work);
  } catch (const c10::OutOfMemoryError&) {  // it holds memory beside what the work itself needs
    known->too_large = true;
  }
}

}  // namespace ham::trainer
