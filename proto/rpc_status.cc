#include "proto/rpc_status.h"

#include "absl/strings/cord.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "proto/utf8.h"

namespace ham {
namespace {

constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";
constexpr char kDomain[] = "ham";
// All metadata of an answer together is limited to 8 KiB by default. The message travels twice, once as percent
// encoding (up to three bytes a byte), once in the details; these as base64.
constexpr size_t kMaxMessageBytes = 600;
constexpr size_t kMaxFieldBytes = 200;
constexpr size_t kMaxDescriptionBytes = 400;
constexpr size_t kMaxBadRequestBytes = 2500;

void SetPayload(const char* url, const google::protobuf::Message& detail, absl::Status* status) {
  status->SetPayload(url, absl::Cord(detail.SerializeAsString()));
}

template <typename Detail>
bool GetPayload(const absl::Status& status, const char* url, Detail* detail) {
  const auto payload = status.GetPayload(url);
  return payload.has_value() && detail->ParseFromString(std::string(*payload));
}

}  // namespace

absl::Status WithReason(absl::Status status, const std::string& reason) {
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain(kDomain);
  SetPayload(kErrorInfoUrl, info, &status);
  return status;
}

std::string ReasonOf(const absl::Status& status) {
  google::rpc::ErrorInfo info;
  return GetPayload(status, kErrorInfoUrl, &info) ? info.reason() : "";
}

absl::Status InvalidFields(const std::vector<FieldViolation>& violations) {
  absl::Status status = WithReason(
      absl::InvalidArgumentError(violations.empty() ? "invalid request"
                                                    : Shown(violations.front().description, kMaxMessageBytes)),
      "INVALID_FIELD");
  google::rpc::BadRequest request;
  for (const FieldViolation& violation : violations) {
    auto* field = request.add_field_violations();
    field->set_field(Shown(violation.field, kMaxFieldBytes));
    field->set_description(Shown(violation.description, kMaxDescriptionBytes));
    if (request.ByteSizeLong() > kMaxBadRequestBytes) {
      request.mutable_field_violations()->RemoveLast();
      break;
    }
  }
  SetPayload(kBadRequestUrl, request, &status);
  return status;
}

std::vector<FieldViolation> FieldViolationsOf(const absl::Status& status) {
  std::vector<FieldViolation> violations;
  google::rpc::BadRequest request;
  if (!GetPayload(status, kBadRequestUrl, &request)) return violations;
  for (const auto& field : request.field_violations()) violations.push_back({field.field(), field.description()});
  return violations;
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string_view whole(status.message().data(), status.message().size());
  const std::string message = Shown(whole, kMaxMessageBytes);
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(message);
  const auto add = [&](auto url, const absl::Cord& payload) {
    auto* any = details.add_details();
    any->set_type_url(std::string(url.data(), url.size()));
    any->set_value(std::string(payload));
  };
  status.ForEachPayload(add);
  if (details.details_size() == 0) return grpc::Status(code, message);
  return grpc::Status(code, message, details.SerializeAsString());
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  google::rpc::Status details;
  if (!status.error_details().empty() && details.ParseFromString(status.error_details())) {
    for (const auto& any : details.details()) result.SetPayload(any.type_url(), absl::Cord(any.value()));
  }
  return result;
}

}  // namespace ham
