// Work on a device that comes again and again on the same memory: recorded after some times, replayed from then on.
//
// A host takes microseconds to launch a kernel; those of a small network take no longer to run. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "worker/trainer/accelerator.h"

namespace ham::trainer {

class Recorder {
 public:
  // Null: nothing is recorded, work just runs.
  explicit Recorder(Accelerator* accelerator) : accelerator_(accelerator) {}

  bool records() const { return accelerator_ != nullptr; }
  // Does `work`, of which there is one a name, and which is such that it can be recorded (accelerator.h): that is done
  // once it has come `times` times, at least once, unless the device has no memory for it.
  void Run(const std::string& name, int times, const std::function<void()>& work);
  // Before memory that work reads or writes moves.
  void Forget() { known_.clear(); }

 private:
  struct Known {
    std::unique_ptr<RecordedWork> recorded;  // perhaps null
    int times = 0;                           // that it has come
    bool too_large = false;
    int64_t last_run = 0;
  };
  void Record(const std::function<void()>& work, Known* known);

  Accelerator* const accelerator_;
  std::map<std::string, Known> known_;
  int64_t runs_ = 0;
};

}  // namespace ham::trainer
