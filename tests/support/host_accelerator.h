// An accelerator whose device is not a GPU: what it records it keeps, and does again at each replay.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include <c10/util/Exception.h>

#include "worker/trainer/accelerator.h"

namespace ham::testing {

class HostAccelerator final : public trainer::Accelerator {
 public:
  // answer: of Connect(), an error.
  explicit HostAccelerator(c10::Device device = c10::kCPU, absl::Status answer = absl::UnimplementedError("no peers"))
      : device_(device), answer_(std::move(answer)) {}

  c10::Device device() const override { return device_; }
  const std::string& name() const override { return name_; }
  int compute_capability() const override { return 0; }
  absl::StatusOr<std::unique_ptr<trainer::Collective>> Connect(const trainer::RankGroup&,
                                                               trainer::KeyValueStore&) override {
    return answer_;
  }
  std::unique_ptr<trainer::RecordedWork> Record(const std::function<void()>& work) override {
    TORCH_CHECK_WITH(OutOfMemoryError, !full_, "there is no memory to record it");
    ++recorded_;
    for (int i = 0; i < 2; ++i) work();
    return std::make_unique<Work>(work, &replayed_);
  }
  std::unique_ptr<trainer::PhaseClock> NewClock() override { return std::make_unique<trainer::HostClock>(); }

  void set_full(bool full) { full_ = full; }
  int recorded() const { return recorded_; }
  int replayed() const { return replayed_; }

 private:
  class Work final : public trainer::RecordedWork {
   public:
    Work(const std::function<void()>& work, int* replayed) : work_(work), replayed_(replayed) {}
    void Replay() override {
      ++*replayed_;
      work_();
    }

   private:
    const std::function<void()> work_;
    int* const replayed_;
  };

  const c10::Device device_;
  const absl::Status answer_;
  const std::string name_ = "the host";
  bool full_ = false;
  int recorded_ = 0, replayed_ = 0;
};

}  // namespace ham::testing
