// The weights that an evaluation names, or the job whose weights they are. Calls block their thread.
#pragma once

#include "absl/status/status.h"
#include "ham/v1/job.pb.h"
#include "server/client_service.h"

namespace ham::server {

// Of a spec that names a job and no weights: fills in `weights`, and in model and data what is absent and the job has.
// Its averaged weights where it has any, else the trained ones. Any other spec stays as it is. NOT_FOUND;
// FAILED_PRECONDITION for a job that is no training or has no checkpoint.
absl::Status FillFromJob(const ServiceParts& parts, ham::v1::EvaluateSpec* evaluate);

// FAILED_PRECONDITION unless the coordinator has them.
absl::Status CheckWeightsAreHere(ArtifactStore* artifacts, const std::string& digest);

}  // namespace ham::server
