#include "client/coordinator_client.h"

#include <algorithm>
#include <fstream>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "proto/backoff.h"
#include "proto/evaluation/record_file.h"
#include "proto/rpc_status.h"

namespace ham::client {
namespace {

double UnitRandom() {
  static std::minstd_rand generator(std::random_device{}());
  return std::uniform_real_distribution<double>(0.0, 1.0)(generator);
}

void SetDeadline(absl::Time deadline, grpc::ClientContext* context) {
  if (deadline != absl::InfiniteFuture()) context->set_deadline(absl::ToChronoTime(deadline));
}

// Waits until the channel is connected or has failed, of which the call then tells why; false at `deadline`.
bool Settled(grpc::Channel& channel, absl::Time deadline) {
  for (;;) {
    const grpc_connectivity_state state = channel.GetState(/*try_to_connect=*/true);
    if (state != GRPC_CHANNEL_IDLE && state != GRPC_CHANNEL_CONNECTING) return true;
    if (!channel.WaitForStateChange(state, absl::ToChronoTime(deadline))) return false;
  }
}

constexpr int64_t kChunkBytes = 1 << 20;

absl::Duration TransferTime(int64_t bytes) { return absl::Seconds(bytes / kChunkBytes); }

}  // namespace

struct CoordinatorClient::Endpoint {
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<ham::v1::JobService::Stub> jobs;
  std::unique_ptr<ham::v1::ClusterService::Stub> cluster;
};

CoordinatorClient::CoordinatorClient(const ConnectionConfig& config, absl::Duration timeout)
    : config_(config), timeout_(timeout), endpoints_(config.endpoints.size()) {}

CoordinatorClient::~CoordinatorClient() = default;
CoordinatorClient::CoordinatorClient(CoordinatorClient&&) noexcept = default;

CoordinatorClient::Endpoint& CoordinatorClient::Current() {
  std::unique_ptr<Endpoint>& endpoint = endpoints_[current_];
  if (endpoint == nullptr) {
    endpoint = std::make_unique<Endpoint>();
    endpoint->channel = MakeChannel(config_, current_, "client");
    endpoint->jobs = ham::v1::JobService::NewStub(endpoint->channel);
    endpoint->cluster = ham::v1::ClusterService::NewStub(endpoint->channel);
  }
  return *endpoint;
}

absl::Status CoordinatorClient::Try(absl::Time end, absl::Time connect_by, const Call& call) {
  Endpoint& endpoint = Current();
  grpc::ClientContext context;
  SetToken(config_, &context);
  SetDeadline(end, &context);
  if (!Settled(*endpoint.channel, connect_by)) return absl::UnavailableError("the connection was not answered");
  const absl::Status status = FromGrpc(call(endpoint, &context));
  if (!absl::IsDeadlineExceeded(status)) return status;
  return absl::DeadlineExceededError(absl::StrCat("the coordinator at ", config_.endpoints[current_],
                                                  " gave no answer within ", absl::FormatDuration(timeout_),
                                                  "; try again, or give a longer --timeout"));
}

absl::Status CoordinatorClient::Retry(const Call& call, absl::Duration longer) {
  const absl::Time end = absl::Now() + timeout_;
  Backoff backoff;
  for (size_t tries = 1;; ++tries) {
    const size_t left_in_round = endpoints_.size() - (tries - 1) % endpoints_.size();
    const absl::Time now = absl::Now();
    const absl::Status status = Try(end + longer, now + (end - now) / static_cast<int64_t>(left_in_round), call);
    if (!absl::IsUnavailable(status)) return status;
    endpoints_[current_].reset();  // a new channel does not wait for the old one's backoff
    current_ = (current_ + 1) % endpoints_.size();
    const absl::Duration wait = left_in_round == 1 ? backoff.Next(UnitRandom()) : absl::ZeroDuration();
    if (absl::Now() + wait < end) {
      absl::SleepFor(wait);
      continue;
    }
    // A coordinator that says UNAVAILABLE itself explains it, with a reason; else gRPC's own words are the only hint.
    if (!ReasonOf(status).empty()) return status;
    return absl::UnavailableError(absl::StrCat("no coordinator was reached at ", absl::StrJoin(config_.endpoints, ", "),
                                               " within ", absl::FormatDuration(timeout_),
                                               ": check that ham-coordinator runs there, the network, and that the "
                                               "login is of this coordinator (",
                                               std::string(status.message()), ")"));
  }
}

template <class Response>
absl::StatusOr<Response> CoordinatorClient::Ask(
    const std::function<grpc::Status(Endpoint&, grpc::ClientContext*, Response*)>& call) {
  Response response;
  const absl::Status status =
      Retry([&](Endpoint& endpoint, grpc::ClientContext* context) { return call(endpoint, context, &response); });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<ham::v1::Job> CoordinatorClient::CreateJob(const ham::v1::CreateJobRequest& request) {
  if (request.request_id().empty()) return absl::InternalError("CreateJob without a request_id");
  return Ask<ham::v1::Job>(
      [&](Endpoint& to, grpc::ClientContext* context, auto* job) { return to.jobs->CreateJob(context, request, job); });
}

absl::StatusOr<ham::v1::Job> CoordinatorClient::GetJob(const std::string& name) {
  ham::v1::GetJobRequest request;
  request.set_name(name);
  return Ask<ham::v1::Job>(
      [&](Endpoint& to, grpc::ClientContext* context, auto* job) { return to.jobs->GetJob(context, request, job); });
}

absl::StatusOr<ham::v1::ListJobsResponse> CoordinatorClient::ListJobs(const ham::v1::ListJobsRequest& request) {
  return Ask<ham::v1::ListJobsResponse>([&](Endpoint& to, grpc::ClientContext* context, auto* jobs) {
    return to.jobs->ListJobs(context, request, jobs);
  });
}

absl::StatusOr<ham::v1::Job> CoordinatorClient::CancelJob(const std::string& name) {
  ham::v1::CancelJobRequest request;
  request.set_name(name);
  return Ask<ham::v1::Job>(
      [&](Endpoint& to, grpc::ClientContext* context, auto* job) { return to.jobs->CancelJob(context, request, job); });
}

absl::Status CoordinatorClient::UploadWeights(const std::string& path, const std::string& digest, int64_t size) {
  absl::Status read;  // of the file
  const auto send = [&](Endpoint& to, grpc::ClientContext* context) -> grpc::Status {
    std::ifstream file(path, std::ios::binary);
    ham::v1::UploadWeightsResponse response;
    const auto writer = to.jobs->UploadWeights(context, &response);
    ham::v1::UploadWeightsRequest request;
    request.set_digest(digest);
    request.set_size(size);
    for (int64_t offset = 0; offset < size;) {
      std::string* data = request.mutable_data();
      data->resize(static_cast<size_t>(std::min<int64_t>(kChunkBytes, size - offset)));
      if (!file.read(data->data(), static_cast<std::streamsize>(data->size()))) {
        context->TryCancel();
        read = absl::NotFoundError(absl::StrCat("cannot read ", path, " to its end"));
        break;
      }
      request.set_offset(offset);
      offset += static_cast<int64_t>(data->size());
      if (!writer->Write(request)) break;  // the coordinator has the file, or says why not
      request.Clear();
    }
    writer->WritesDone();
    return writer->Finish();
  };
  absl::Status status = Retry(send, TransferTime(size));
  // What another had sent of this file before was not of it, and is dropped now.
  if (absl::IsDataLoss(status) || absl::IsAborted(status)) status = Retry(send, TransferTime(size));
  return read.ok() ? status : read;
}

absl::StatusOr<std::string> CoordinatorClient::GetEvaluationRecord(const std::string& job) {
  ham::v1::GetEvaluationRecordRequest request;
  request.set_name(job);
  std::string record;
  const auto receive = [&](Endpoint& from, grpc::ClientContext* context) -> grpc::Status {
    record.clear();
    const auto reader = from.jobs->GetEvaluationRecord(context, request);
    ham::v1::GetEvaluationRecordResponse response;
    while (record.size() <= kMostRecordFileBytes && reader->Read(&response)) record += response.data();
    if (record.size() <= kMostRecordFileBytes) return reader->Finish();
    context->TryCancel();
    reader->Finish();
    return {grpc::StatusCode::DATA_LOSS,
            absl::StrCat("the record of ", job, " has more than ", kMostRecordFileBytes, " bytes, which none has")};
  };
  const absl::Status status = Retry(receive, TransferTime(kMostRecordFileBytes));
  if (!status.ok()) return status;
  return record;
}

absl::StatusOr<ham::v1::ListWorkersResponse> CoordinatorClient::ListWorkers() {
  return Ask<ham::v1::ListWorkersResponse>([](Endpoint& to, grpc::ClientContext* context, auto* workers) {
    return to.cluster->ListWorkers(context, {}, workers);
  });
}

absl::StatusOr<ham::v1::GetVersionResponse> CoordinatorClient::GetVersion() {
  return Ask<ham::v1::GetVersionResponse>([](Endpoint& to, grpc::ClientContext* context, auto* version) {
    return to.cluster->GetVersion(context, {}, version);
  });
}

absl::Status CoordinatorClient::WatchJob(const ham::v1::WatchJobRequest& request, absl::Time deadline,
                                         CallCancel* cancel,
                                         const std::function<void(const ham::v1::WatchJobResponse&)>& receive) {
  grpc::ClientContext context;
  SetToken(config_, &context);
  SetDeadline(deadline, &context);
  if (!cancel->Enter(&context)) return absl::CancelledError("interrupted");
  const std::unique_ptr<grpc::ClientReader<ham::v1::WatchJobResponse>> reader =
      Current().jobs->WatchJob(&context, request);
  ham::v1::WatchJobResponse response;
  while (reader->Read(&response)) receive(response);
  const absl::Status status = FromGrpc(reader->Finish());
  cancel->Leave(&context);
  if (cancel->cancelled()) return absl::CancelledError("interrupted");
  if (absl::IsUnavailable(status)) {
    endpoints_[current_].reset();
    current_ = (current_ + 1) % endpoints_.size();
  }
  return status;
}

}  // namespace ham::client
