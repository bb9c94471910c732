// Work on a device that comes again and again on the same memory: recorded its second time, replayed from then on.
//
// A host takes microseconds to launch a kernel; those of a small network take no longer to run. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "worker/trainer/accelerator.h"

namespace ham::trainer {

class Recorder {
 public:
  // Null: nothing is recorded, work just runs.
  explicit Recorder(Accelerator* accelerator) : accelerator_(accelerator) {}

  bool records() const { return accelerator_ != nullptr; }
  // Does `work`, of which there is one a name, and which is such that it can be recorded (accelerator.h).
  void Run(const std::string& name, const std::function<void()>& work);
  // Before memory that work reads or writes moves.
  void Forget() { known_.clear(); }

 private:
  struct Known {
    std::unique_ptr<RecordedWork> recorded;  // null until its second time
    int64_t last_run = 0;
  };

  Accelerator* const accelerator_;
  std::map<std::string, Known> known_;
  int64_t runs_ = 0;
};

}  // namespace ham::trainer
