// Notices when a trainer says nothing new.
#pragma once

#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "ham/v1/worker_service.pb.h"

namespace ham::agent {

// Any thread may call any method.
class SilenceWatch {
 public:
  // For so long there was no new tick; `last` is the newest progress.
  using Silent = std::function<void(const ham::v1::Progress& last, absl::Duration silence)>;

  // `silent` is called on a thread of its own, once `limit` has passed without a new tick; not again before the next
  // tick, and not before the first. Each call doubles the limit: what is slow by nature is not told of for ever.
  SilenceWatch(absl::Duration limit, Silent silent);
  ~SilenceWatch();  // waits for a call of it
  SilenceWatch(const SilenceWatch&) = delete;
  SilenceWatch& operator=(const SilenceWatch&) = delete;

  void Heard(const ham::v1::Progress& progress);

 private:
  void Run();

  absl::Duration limit_;  // thread_ only
  const Silent silent_;
  absl::Mutex mutex_;
  ham::v1::Progress last_ ABSL_GUARDED_BY(mutex_);
  bool heard_ ABSL_GUARDED_BY(mutex_) = false;  // since the thread last looked
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace ham::agent
