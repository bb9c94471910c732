#include "proto/rpc_status.h"

#include <gtest/gtest.h>

namespace ham {
namespace {

TEST(RpcStatus, KeepsCodeMessageReasonAndFieldsOverTheWire) {
  const absl::Status sent = InvalidFields({{"train.epochs", "train.epochs is 0"}, {"train.seed", "wrong"}});
  const absl::Status received = FromGrpc(ToGrpc(sent));
  EXPECT_EQ(received.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(received.message(), "train.epochs is 0");
  EXPECT_EQ(ReasonOf(received), "INVALID_FIELD");
  const auto fields = FieldViolationsOf(received);
  ASSERT_EQ(fields.size(), 2u);
  EXPECT_EQ(fields[1].field, "train.seed");
}

TEST(RpcStatus, KeepsEveryCode) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status sent(static_cast<absl::StatusCode>(code), "why");
    EXPECT_EQ(FromGrpc(ToGrpc(sent)), sent);
  }
  EXPECT_TRUE(FromGrpc(ToGrpc(absl::OkStatus())).ok());
}

TEST(RpcStatus, IgnoresDamagedDetails) {
  const absl::Status status = FromGrpc(grpc::Status(grpc::StatusCode::ABORTED, "why", "\xff\xff garbage"));
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(status), "");
}

// Bytes on the wire: the message percent-encoded, the details as base64.
size_t MetadataBytes(const grpc::Status& status) {
  return 3 * status.error_message().size() + 4 * status.error_details().size() / 3;
}

TEST(RpcStatus, FitsIntoTheMetadataOfAnAnswer) {
  for (const size_t size : {10, 300, 3000, 300000}) {
    std::string euros;
    while (euros.size() < size) euros += "\xE2\x82\xAC";
    const std::vector<FieldViolation> many(10000, {euros, euros});
    const grpc::Status invalid = ToGrpc(InvalidFields(many));
    EXPECT_LT(MetadataBytes(invalid), 7500u) << size;
    EXPECT_GE(FieldViolationsOf(FromGrpc(invalid)).size(), 4u) << size;
    EXPECT_EQ(ReasonOf(FromGrpc(invalid)), "INVALID_FIELD");
    const grpc::Status aborted = ToGrpc(WithReason(absl::AbortedError(euros), "WHY"));
    EXPECT_LT(MetadataBytes(aborted), 7500u) << size;
    EXPECT_EQ(ReasonOf(FromGrpc(aborted)), "WHY") << size;
  }
}

}  // namespace
}  // namespace ham
