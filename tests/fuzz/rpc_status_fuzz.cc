// Details of errors that a peer sent.
#include "google/rpc/status.pb.h"
#include "proto/rpc_status.h"
#include "tests/fuzz/fuzz.h"

namespace ham::fuzz {

std::vector<std::string> Seeds() {
  return {ToGrpc(InvalidFields({{"train.epochs", "train.epochs is 0"}, {"labels", "too many"}})).error_details(),
          ToGrpc(WithReason(absl::AbortedError("x"), "STALE_ATTEMPT")).error_details(), ""};
}

void TryInput(const std::string& input) {
  const grpc::Status sent(grpc::StatusCode::INVALID_ARGUMENT, "message", input);
  const absl::Status status = FromGrpc(sent);
  Check(status.code() == absl::StatusCode::kInvalidArgument && status.message() == "message",
        "code and message stay, whatever the details are");
  const std::string reason = ReasonOf(status);
  const std::vector<FieldViolation> violations = FieldViolationsOf(status);
  const absl::Status again = FromGrpc(ToGrpc(status));
  Check(ReasonOf(again) == reason && FieldViolationsOf(again).size() == violations.size(), "details survive a hop");
}

}  // namespace ham::fuzz
