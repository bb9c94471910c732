// What this host can offer, as its trainer program says.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "ham/v1/cluster_service.pb.h"

namespace ham::agent {

// Runs `TRAINER version --json`. FailedPrecondition when it is of another build than this agent; NotFound or
// Unavailable when it cannot be run.
absl::Status CheckTrainer(const std::string& trainer);

// `gpus`, or none, and a line in the log, where the trainer of GPUs is not installed beside `trainer`. Errors of
// CheckTrainer where it is installed.
absl::StatusOr<std::vector<ham::v1::Slot>> UsableGpus(std::vector<ham::v1::Slot> gpus, const std::string& trainer);

// Runs `TRAINER data inspect`. Data sets that are broken are logged with the reason and left out.
absl::StatusOr<std::vector<ham::v1::DataSet>> InspectData(const std::string& trainer, const std::string& data_root);

// The same two from the program's output. Pure.
absl::Status CheckVersionOutput(const std::string& trainer, const std::string& json);
absl::StatusOr<std::vector<ham::v1::DataSet>> ParseInspectOutput(const std::string& trainer, const std::string& json);

// Standard output of a program that ends with status 0, up to 16 MiB; it is killed after `timeout`. NotFound if it
// cannot be started, DeadlineExceeded, ResourceExhausted for more output, Unavailable with its exit status and the end
// of its standard error.
absl::StatusOr<std::string> RunProgram(const std::vector<std::string>& arguments, absl::Duration timeout);

}  // namespace ham::agent
