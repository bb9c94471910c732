#include "server/stored_rows.h"

#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "server/job_view.h"

namespace ham::server {
namespace {

using nlohmann::json;

std::string Escape(const std::string& bytes) {
  std::string text;
  absl::Base64Escape(bytes, &text);
  return text;
}

json ParseObject(const std::string& bytes) {
  json object = json::parse(bytes, nullptr, /*allow_exceptions=*/false);
  return object.is_object() ? object : json();
}

}  // namespace

// The public half travels as ham.v1.Job, whose compatibility is tested.
std::string SerializeJobRow(const JobRow& row) {
  ham::v1::Job job;
  FillJob(row, &job);
  json gang = json::array();
  for (const Placement& place : row.gang) gang.push_back({place.rank, place.worker_id, place.session, place.slot});
  const json object = {{"job", Escape(job.SerializeAsString())},
                       {"submit_index", row.submit_index},
                       {"world_size", row.world_size},
                       {"device", row.device},
                       {"data_set", row.data_set},
                       {"max_attempts", row.max_attempts},
                       {"failed_attempts", row.failed_attempts},
                       {"gang", gang}};
  return object.dump();
}

bool ParseJobRow(const std::string& bytes, JobRow* row) {
  const json object = ParseObject(bytes);
  if (object.is_null()) return false;
  try {
    std::string job_bytes;
    ham::v1::Job job;
    if (!absl::Base64Unescape(object.at("job").get<std::string>(), &job_bytes) || !job.ParseFromString(job_bytes)) {
      return false;
    }
    row->name = job.name();
    row->state = job.state();
    row->state_reason = job.state_reason();
    row->state_message = job.state_message();
    row->creator = job.creator();
    row->attempt = job.attempt();
    row->failure_class = job.failure_class();
    row->create_time = FromTimestamp(job.create_time());
    if (job.has_start_time()) row->start_time = FromTimestamp(job.start_time());
    if (job.has_end_time()) row->end_time = FromTimestamp(job.end_time());
    if (job.has_checkpoint()) row->checkpoint = job.checkpoint();
    row->submit_index = object.at("submit_index");
    row->world_size = object.at("world_size");
    row->device = object.at("device").get<std::string>();
    row->data_set = object.at("data_set").get<std::string>();
    row->max_attempts = object.at("max_attempts");
    row->failed_attempts = object.at("failed_attempts");
    for (const json& place : object.at("gang")) {
      row->gang.push_back({place.at(0), place.at(1).get<std::string>(), place.at(2), place.at(3)});
    }
    return true;
  } catch (const json::exception&) {
    return false;
  }
}

std::string SerializeWorkerRow(const WorkerRow& row) {
  const json object = {{"worker_id", Escape(row.worker_id)},
                       {"name", row.name},
                       {"incarnation", Escape(row.incarnation)},
                       {"session", row.session}};
  return object.dump();
}

bool ParseWorkerRow(const std::string& bytes, WorkerRow* row) {
  const json object = ParseObject(bytes);
  if (object.is_null()) return false;
  try {
    row->name = object.at("name").get<std::string>();
    row->session = object.at("session");
    return absl::Base64Unescape(object.at("worker_id").get<std::string>(), &row->worker_id) &&
           absl::Base64Unescape(object.at("incarnation").get<std::string>(), &row->incarnation);
  } catch (const json::exception&) {
    return false;
  }
}

// As the part of a Job that it is.
std::string SerializeContent(const JobContent& content) {
  ham::v1::Job job;
  *job.mutable_spec() = content.spec;
  job.mutable_labels()->insert(content.labels.begin(), content.labels.end());
  return job.SerializeAsString();
}

bool ParseContent(const std::string& bytes, JobContent* content) {
  ham::v1::Job job;
  if (!job.ParseFromString(bytes)) return false;
  content->spec = job.spec();
  content->labels.insert(job.labels().begin(), job.labels().end());
  return true;
}

}  // namespace ham::server
