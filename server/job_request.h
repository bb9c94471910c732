// Checks of what clients ask for; pure.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ham/v1/job_service.pb.h"
#include "server/coordinator_loop.h"

namespace ham::server {

// InvalidFields with every wrong field; else the job with its spec resolved. `spec` is the request's after FillFromJob;
// `id` is the last part of the new name.
absl::StatusOr<NewJob> CheckCreateJob(const ham::v1::CreateJobRequest& request, const ham::v1::JobSpec& spec,
                                      const std::string& creator, const std::string& id);

// A page of ListJobs.
struct PageRequest {
  int size = 50;
  int64_t before = 0;  // submit_index of the last job of the previous page; INT64_MAX for the first page
};
absl::StatusOr<PageRequest> CheckListJobs(const ham::v1::ListJobsRequest& request);
// The token by which `request`'s next page is asked for.
std::string PageToken(const ham::v1::ListJobsRequest& request, int64_t last_index);

// InvalidFields unless it has the form projects/{project}/jobs/{job}.
absl::Status CheckJobName(const std::string& name);
// InvalidFields for tokens, kinds and fields that no WatchJobRequest has.
absl::StatusOr<WatchRequest> CheckWatchJob(const ham::v1::WatchJobRequest& request);

}  // namespace ham::server
