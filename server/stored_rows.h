// Rows of the store as bytes. What one release writes, later ones must read: add keys, never change their meaning.
#pragma once

#include <string>

#include "server/store.h"

namespace ham::server {

std::string SerializeJobRow(const JobRow& row);
std::string SerializeWorkerRow(const WorkerRow& row);
std::string SerializeContent(const JobContent& content);
// False for bytes that Serialize did not make. Any thread.
bool ParseJobRow(const std::string& bytes, JobRow* row);
bool ParseWorkerRow(const std::string& bytes, WorkerRow* row);
bool ParseContent(const std::string& bytes, JobContent* content);

}  // namespace ham::server
