// What clients ask for: the first byte says which request the rest is. Each refusal must reach the client whole.
#include <google/protobuf/stubs/logging.h>

#include "proto/rpc_status.h"
#include "server/job_request.h"
#include "server/metric_stream.h"
#include "tests/fuzz/fuzz.h"

namespace ham::fuzz {
namespace {

constexpr char kJob[] = "projects/default/jobs/jabc";
constexpr size_t kMostMetadataBytes = 8 << 10;  // what gRPC lets through

void CheckRefusal(const absl::Status& status) {
  if (status.ok()) return;
  const grpc::Status sent = ToGrpc(status);
  Check(sent.error_message().size() + sent.error_details().size() < kMostMetadataBytes,
        "a refusal fits gRPC's metadata");
  const absl::Status received = FromGrpc(sent);
  Check(received.code() == status.code() && ReasonOf(received) == ReasonOf(status) && !ReasonOf(status).empty(),
        "a refusal keeps its reason");
  Check(status.code() != absl::StatusCode::kInvalidArgument || !FieldViolationsOf(received).empty(),
        "a refusal names the fields");
}

template <class Request>
std::string Seed(char which, const Request& request) {
  return std::string(1, which) + request.SerializeAsString();
}

void TryToken(const std::string& token) {
  const server::WatchTokens tokens("epoch");
  const absl::StatusOr<int64_t> sequence = tokens.Read(kJob, token);
  CheckRefusal(sequence.status());
  if (sequence.ok() && !token.empty()) {
    Check(*sequence >= 0, "sequences are not negative");
    Check(tokens.Make(kJob, *sequence) == token, "there is one way to write a token");
  }
}

}  // namespace

std::vector<std::string> Seeds() {
  ham::v1::CreateJobRequest create;
  create.set_parent("projects/default");
  create.set_request_id("r-1");
  (*create.mutable_labels())["team"] = "x";
  create.mutable_spec()->mutable_train()->mutable_data()->set_name("fashion-mnist");
  ham::v1::ListJobsRequest list;
  list.set_parent("projects/default");
  list.add_states(ham::v1::Job::RUNNING);
  list.set_page_token(server::PageToken(list, 7));
  ham::v1::WatchJobRequest watch;
  watch.set_name(kJob);
  watch.set_token("epoch.jabc.5");
  return {Seed(0, create), Seed(1, list), Seed(2, watch),
          "\x03"
          "epoch.jabc.12",
          "\x04projects/default/jobs/j1"};
}

void TryInput(const std::string& input) {
  static const google::protobuf::LogSilencer* const silent = new google::protobuf::LogSilencer;
  static_cast<void>(silent);
  if (input.empty()) return;
  const std::string bytes = input.substr(1);
  ham::v1::CreateJobRequest create;
  ham::v1::ListJobsRequest list;
  ham::v1::WatchJobRequest watch;
  switch (static_cast<unsigned char>(input[0]) % 5) {
    case 0:
      if (create.ParseFromString(bytes)) CheckRefusal(server::CheckCreateJob(create, create.spec(), "admin", "abc").status());
      return;
    case 1:
      if (list.ParseFromString(bytes)) CheckRefusal(server::CheckListJobs(list).status());
      return;
    case 2:
      if (watch.ParseFromString(bytes)) CheckRefusal(server::CheckWatchJob(watch).status());
      return;
    case 3:
      return TryToken(bytes);
    default:
      // Names come as text of a request: UTF-8.
      watch.set_name(bytes);
      if (watch.ParseFromString(watch.SerializeAsString())) CheckRefusal(server::CheckJobName(bytes));
  }
}

}  // namespace ham::fuzz
