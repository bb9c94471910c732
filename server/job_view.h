// Rows of the core as messages of the API.
#pragma once

#include "google/protobuf/timestamp.pb.h"
#include "ham/v1/cluster_service.pb.h"
#include "ham/v1/job.pb.h"
#include "server/coordinator.h"

namespace ham::server {

// Fills in all but spec and labels, which the core does not keep.
void FillJob(const JobRow& row, ham::v1::Job* job);
ham::v1::Worker ToWorker(const WorkerView& view);
google::protobuf::Timestamp ToTimestamp(absl::Time time);
// Within what a Timestamp may say: the years 1 to 9999.
bool IsTimestamp(const google::protobuf::Timestamp& time);
absl::Time FromTimestamp(const google::protobuf::Timestamp& time);

}  // namespace ham::server
