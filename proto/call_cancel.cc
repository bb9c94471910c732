#include "proto/call_cancel.h"

namespace ham {

void CallCancel::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  for (grpc::ClientContext* context : contexts_) context->TryCancel();
}

bool CallCancel::cancelled() const {
  absl::MutexLock lock(&mutex_);
  return cancelled_;
}

void CallCancel::Wait(absl::Duration duration) const {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&cancelled_), duration);
}

bool CallCancel::Enter(grpc::ClientContext* context) {
  absl::MutexLock lock(&mutex_);
  if (cancelled_) return false;
  contexts_.insert(context);
  return true;
}

void CallCancel::Leave(grpc::ClientContext* context) {
  absl::MutexLock lock(&mutex_);
  contexts_.erase(context);
}

}  // namespace ham
