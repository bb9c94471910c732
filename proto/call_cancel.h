// Ends calls that another thread waits in.
#pragma once

#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/client_context.h"

namespace ham {

// Any thread may call any method.
class CallCancel {
 public:
  // Calls under way end soon with CANCELLED, later ones at once.
  void Cancel();
  bool cancelled() const;
  // Waits for `duration` or until it is cancelled.
  void Wait(absl::Duration duration) const;

  // For the time of one call. False when cancelled; there is nothing to leave then.
  bool Enter(grpc::ClientContext* context);
  void Leave(grpc::ClientContext* context);

 private:
  mutable absl::Mutex mutex_;
  std::set<grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace ham
