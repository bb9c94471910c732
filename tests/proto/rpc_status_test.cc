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

TEST(RpcStatus, BoundsTheDetails) {
  std::vector<FieldViolation> many(10000, {"field", std::string(200, 'x')});
  EXPECT_LT(ToGrpc(InvalidFields(many)).error_details().size(), 6000u);
}

}  // namespace
}  // namespace ham
