#include "server/loop_calls.h"

#include <utility>

#include "absl/synchronization/notification.h"

namespace ham::server {

absl::Status ReadAndWait(CoordinatorLoop* loop, const std::function<absl::Status(const CoordinatorLoop::View&)>& read) {
  absl::Notification over;
  absl::Status status;
  loop->Inspect([&](const absl::StatusOr<CoordinatorLoop::View>& view) {
    status = view.ok() ? read(*view) : view.status();
    over.Notify();
  });
  over.WaitForNotification();
  return status;
}

absl::Status ApplyAndWait(CoordinatorLoop* loop, Event event) {
  absl::Notification over;
  absl::Status status;
  loop->Apply(std::move(event), [&](const absl::Status& result) {
    status = result;
    over.Notify();
  });
  over.WaitForNotification();
  return status;
}

absl::StatusOr<JobRow> CreateJobAndWait(CoordinatorLoop* loop, NewJob job) {
  absl::Notification over;
  absl::StatusOr<JobRow> row;
  loop->CreateJob(std::move(job), [&](absl::StatusOr<JobRow> result) {
    row = std::move(result);
    over.Notify();
  });
  over.WaitForNotification();
  return row;
}

}  // namespace ham::server
