#include "server/job_view.h"

#include "absl/strings/str_cat.h"

namespace ham::server {

google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  google::protobuf::Timestamp result;
  const int64_t seconds = absl::ToUnixSeconds(time);
  result.set_seconds(seconds);
  result.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
  return result;
}

bool IsTimestamp(const google::protobuf::Timestamp& time) {
  return time.seconds() >= -62135596800 && time.seconds() <= 253402300799 && time.nanos() >= 0 &&
         time.nanos() < 1000000000;
}

absl::Time FromTimestamp(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

void FillJob(const JobRow& row, ham::v1::Job* job) {
  job->set_name(row.name);
  job->set_state(row.state);
  job->set_state_message(row.state_message);
  job->set_state_reason(row.state_reason);
  job->set_creator(row.creator);
  job->set_attempt(row.attempt);
  job->set_failure_class(row.failure_class);
  *job->mutable_create_time() = ToTimestamp(row.create_time);
  if (row.start_time != absl::InfinitePast()) *job->mutable_start_time() = ToTimestamp(row.start_time);
  if (row.end_time != absl::InfinitePast()) *job->mutable_end_time() = ToTimestamp(row.end_time);
  if (row.checkpoint) *job->mutable_checkpoint() = *row.checkpoint;
  job->set_record_digest(row.record_digest);
}

ham::v1::Worker ToWorker(const WorkerView& view) {
  ham::v1::Worker worker;
  worker.set_name(absl::StrCat("workers/", view.row.name));
  worker.set_worker_id(view.row.worker_id);
  worker.set_state(view.state);
  if (view.state == ham::v1::Worker::EXCLUDED) *worker.mutable_excluded_until() = ToTimestamp(view.excluded_until);
  for (const ham::v1::Slot& slot : view.slots) *worker.add_slots() = slot;
  for (const ham::v1::DataSet& data_set : view.data_sets) *worker.add_data_sets() = data_set;
  worker.set_build_id(view.build_id);
  if (view.connect_time != absl::Time() && view.connect_time != absl::InfinitePast()) {
    *worker.mutable_connect_time() = ToTimestamp(view.connect_time);
  }
  if (view.last_beat_time != absl::Time() && view.last_beat_time != absl::InfinitePast()) {
    *worker.mutable_last_beat_time() = ToTimestamp(view.last_beat_time);
  }
  return worker;
}

}  // namespace ham::server
