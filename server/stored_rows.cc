#include "server/stored_rows.h"

#include "server/stored_rows.pb.h"

namespace ham::server {

std::string SerializeJobRow(const JobRow& row) {
  stored::Job job;
  job.set_name(row.name);
  job.set_submit_index(row.submit_index);
  job.set_state(row.state);
  job.set_state_reason(row.state_reason);
  job.set_state_message(row.state_message);
  job.set_creator(row.creator);
  job.set_world_size(row.world_size);
  job.set_device(row.device);
  job.set_data_set(row.data_set);
  job.set_pool(row.pool);
  job.set_next_rank(row.next_rank);
  job.set_record_digest(row.record_digest);
  job.set_data_digest(row.data_digest);
  job.set_build_id(row.build_id);
  job.set_max_attempts(row.max_attempts);
  job.set_attempt(row.attempt);
  for (const Placement& place : row.gang) {
    stored::Placement& stored = *job.add_gang();
    stored.set_rank(place.rank);
    stored.set_worker_id(place.worker_id);
    stored.set_session(place.session);
    stored.set_slot(place.slot);
    stored.set_succeeded(place.succeeded);
  }
  job.set_failed_attempts(row.failed_attempts);
  job.set_failure_class(row.failure_class);
  if (row.checkpoint) *job.mutable_checkpoint() = *row.checkpoint;
  job.mutable_older_checkpoints()->Assign(row.older_checkpoints.begin(), row.older_checkpoints.end());
  if (row.create_time != absl::InfinitePast()) job.set_create_time(absl::ToUnixNanos(row.create_time));
  if (row.start_time != absl::InfinitePast()) job.set_start_time(absl::ToUnixNanos(row.start_time));
  if (row.end_time != absl::InfinitePast()) job.set_end_time(absl::ToUnixNanos(row.end_time));
  return job.SerializeAsString();
}

bool ParseJobRow(const std::string& bytes, JobRow* row) {
  stored::Job job;
  if (!job.ParseFromString(bytes)) return false;
  row->name = job.name();
  row->submit_index = job.submit_index();
  row->state = static_cast<ham::v1::Job::State>(job.state());
  row->state_reason = job.state_reason();
  row->state_message = job.state_message();
  row->creator = job.creator();
  row->world_size = job.world_size();
  row->device = job.device();
  row->data_set = job.data_set();
  row->pool = job.pool();
  row->next_rank = job.next_rank();
  row->record_digest = job.record_digest();
  row->data_digest = job.data_digest();
  row->build_id = job.build_id();
  row->max_attempts = job.max_attempts();
  row->attempt = job.attempt();
  for (const stored::Placement& place : job.gang()) {
    row->gang.push_back({place.rank(), place.worker_id(), place.session(), place.slot(), place.succeeded()});
  }
  row->failed_attempts = job.failed_attempts();
  row->failure_class = static_cast<ham::v1::FailureClass>(job.failure_class());
  if (job.has_checkpoint()) row->checkpoint = job.checkpoint();
  row->older_checkpoints.assign(job.older_checkpoints().begin(), job.older_checkpoints().end());
  if (job.has_create_time()) row->create_time = absl::FromUnixNanos(job.create_time());
  if (job.has_start_time()) row->start_time = absl::FromUnixNanos(job.start_time());
  if (job.has_end_time()) row->end_time = absl::FromUnixNanos(job.end_time());
  return true;
}

std::string SerializeContent(const JobContent& content) {
  stored::Content stored;
  *stored.mutable_spec() = content.spec;
  for (const auto& [name, value] : content.labels) {
    stored::Label& label = *stored.add_labels();
    label.set_name(name);
    label.set_value(value);
  }
  return stored.SerializeAsString();
}

bool ParseContent(const std::string& bytes, JobContent* content) {
  stored::Content stored;
  if (!stored.ParseFromString(bytes)) return false;
  content->spec = std::move(*stored.mutable_spec());
  for (const stored::Label& label : stored.labels()) content->labels[label.name()] = label.value();
  return true;
}

bool ParseContentLabels(const std::string& bytes, std::map<std::string, std::string>* labels) {
  stored::ContentLabels stored;
  if (!stored.ParseFromString(bytes)) return false;
  for (const stored::Label& label : stored.labels()) (*labels)[label.name()] = label.value();
  return true;
}

std::string SerializeWorkerRow(const WorkerRow& row) {
  stored::Worker worker;
  worker.set_worker_id(row.worker_id);
  worker.set_name(row.name);
  worker.set_incarnation(row.incarnation);
  worker.set_session(row.session);
  worker.set_incarnation_number(row.incarnation_number);
  worker.set_excluded(row.excluded);
  return worker.SerializeAsString();
}

bool ParseWorkerRow(const std::string& bytes, WorkerRow* row) {
  stored::Worker worker;
  if (!worker.ParseFromString(bytes)) return false;
  *row = {.worker_id = worker.worker_id(),
          .name = worker.name(),
          .incarnation = worker.incarnation(),
          .incarnation_number = worker.incarnation_number(),
          .session = worker.session(),
          .excluded = worker.excluded()};
  return true;
}

std::string SerializeRequest(const RequestRow& row) {
  stored::Request request;
  request.set_hash(row.request_hash);
  request.set_job(row.job);
  request.set_time(absl::ToUnixNanos(row.time));
  return request.SerializeAsString();
}

bool ParseRequest(const std::string& bytes, RequestRow* row) {
  stored::Request request;
  if (!request.ParseFromString(bytes)) return false;
  row->request_hash = request.hash();
  row->job = request.job();
  row->time = absl::FromUnixNanos(request.time());
  return true;
}

}  // namespace ham::server
