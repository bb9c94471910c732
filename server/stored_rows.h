// Rows of the store as bytes and back; the format is stored_rows.proto.
#pragma once

#include <map>
#include <string>

#include "absl/time/time.h"
#include "server/store.h"

namespace ham::server {

std::string SerializeJobRow(const JobRow& row);
std::string SerializeContent(const JobContent& content);
std::string SerializeWorkerRow(const WorkerRow& row);
std::string SerializeRequest(const RequestRow& row);  // without principal and request_id
// Into a default-made row. False for bytes that Serialize did not make. Any thread.
bool ParseJobRow(const std::string& bytes, JobRow* row);
bool ParseContent(const std::string& bytes, JobContent* content);
bool ParseContentLabels(const std::string& bytes, std::map<std::string, std::string>* labels);
bool ParseWorkerRow(const std::string& bytes, WorkerRow* row);
bool ParseRequest(const std::string& bytes, RequestRow* row);

}  // namespace ham::server
