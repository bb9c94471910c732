// Typed calls to a coordinator: what hamctl and tests use.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "ham/v1/cluster_service.grpc.pb.h"
#include "ham/v1/job_service.grpc.pb.h"
#include "proto/call_cancel.h"
#include "proto/channel.h"

namespace ham::client {

// Each call tries the endpoints in turn, with growing waits between rounds, until one answers with something else than
// UNAVAILABLE or `timeout` is over: then UNAVAILABLE when none was reached, DEADLINE_EXCEEDED when one was and did not
// answer. An endpoint that takes no connection gets an equal share of what is left, so that the next has its turn.
// Other errors are the coordinator's own, with their details (proto/rpc_status.h). Not thread-safe, but for the
// CallCancel.
class CoordinatorClient {
 public:
  CoordinatorClient(const ConnectionConfig& config, absl::Duration timeout);
  ~CoordinatorClient();
  CoordinatorClient(CoordinatorClient&&) noexcept;

  // Needs a request_id: a retry must not make a second job.
  absl::StatusOr<ham::v1::Job> CreateJob(const ham::v1::CreateJobRequest& request);
  absl::StatusOr<ham::v1::Job> GetJob(const std::string& name);
  absl::StatusOr<ham::v1::ListJobsResponse> ListJobs(const ham::v1::ListJobsRequest& request);
  absl::StatusOr<ham::v1::Job> CancelJob(const std::string& name);
  // Once connected, these two may take a second longer for each MiB.
  // The file at `path`, of this SHA-256 and size. NOT_FOUND if it cannot be read.
  absl::Status UploadWeights(const std::string& path, const std::string& digest, int64_t size);
  // The record file of an evaluation. DATA_LOSS beyond kMostRecordFileBytes.
  absl::StatusOr<std::string> GetEvaluationRecord(const std::string& job);
  absl::StatusOr<ham::v1::ListWorkersResponse> ListWorkers();
  absl::StatusOr<ham::v1::GetVersionResponse> GetVersion();

  // One stream, on one endpoint; the next call takes the next one. `receive` is called for each response. Ends with the
  // stream's status; CANCELLED by `cancel`, DEADLINE_EXCEEDED at `deadline`.
  absl::Status WatchJob(const ham::v1::WatchJobRequest& request, absl::Time deadline, CallCancel* cancel,
                        const std::function<void(const ham::v1::WatchJobResponse&)>& receive);

 private:
  struct Endpoint;

  Endpoint& Current();
  using Call = std::function<grpc::Status(Endpoint&, grpc::ClientContext*)>;
  // One try of the current endpoint, which must take the connection by `connect_by`.
  absl::Status Try(absl::Time end, absl::Time connect_by, const Call& call);
  // `longer`: what a call may take beyond timeout_; none begins after that.
  absl::Status Retry(const Call& call, absl::Duration longer = absl::ZeroDuration());
  template <class Response>
  absl::StatusOr<Response> Ask(const std::function<grpc::Status(Endpoint&, grpc::ClientContext*, Response*)>& call);

  ConnectionConfig config_;
  absl::Duration timeout_;
  std::vector<std::unique_ptr<Endpoint>> endpoints_;  // null until used
  size_t current_ = 0;
};

}  // namespace ham::client
