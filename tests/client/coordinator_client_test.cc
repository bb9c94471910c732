#include "client/coordinator_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "proto/rpc_status.h"
#include "tests/client/scripted_coordinator.h"
#include "tests/support/temporary_directory.h"

namespace ham::client {
namespace {

using ham::testing::ConfigOf;
using ham::testing::DeadEndpoint;
using ham::testing::ScriptedCoordinator;
using ham::testing::SilentSocket;

TEST(CoordinatorClient, ShowsItsToken) {
  ScriptedCoordinator server;
  CoordinatorClient client(ConfigOf({server.endpoint()}), absl::Seconds(10));
  EXPECT_EQ(client.GetJob("a")->name(), "a");
  EXPECT_EQ(server.token, "Bearer secret");
}

TEST(CoordinatorClient, GoesOnToTheNextEndpoint) {
  ScriptedCoordinator server;
  CoordinatorClient client(ConfigOf({DeadEndpoint(), server.endpoint()}), absl::Seconds(10));
  EXPECT_TRUE(client.GetJob("a").ok());
  EXPECT_TRUE(client.GetJob("b").ok());
}

TEST(CoordinatorClient, LeavesTimeForTheNextEndpointWhenOneTakesNoCall) {
  const SilentSocket silent;
  ScriptedCoordinator server;
  CoordinatorClient client(ConfigOf({silent.endpoint(), server.endpoint()}), absl::Seconds(1));
  EXPECT_TRUE(client.GetJob("a").ok());
  CoordinatorClient alone(ConfigOf({silent.endpoint()}), absl::Milliseconds(300));
  EXPECT_EQ(alone.GetJob("a").status().code(), absl::StatusCode::kUnavailable);
}

TEST(CoordinatorClient, TriesAgainWhatIsUnavailableForNow) {
  ScriptedCoordinator server;
  server.get_job = [&](grpc::ServerContext*) {
    return server.calls < 3 ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "starting") : grpc::Status::OK;
  };
  CoordinatorClient client(ConfigOf({server.endpoint()}), absl::Seconds(10));
  EXPECT_TRUE(client.GetJob("a").ok());
  EXPECT_EQ(server.calls, 3);
}

TEST(CoordinatorClient, NamesTheEndpointsWhenNoneIsReached) {
  const std::string endpoint = DeadEndpoint();
  CoordinatorClient client(ConfigOf({endpoint}), absl::Milliseconds(300));
  const absl::Status status = client.GetJob("a").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(endpoint));
}

TEST(CoordinatorClient, KeepsTheWordsOfACoordinatorThatIsUnavailable) {
  ScriptedCoordinator server;
  server.get_job = [](grpc::ServerContext*) {
    return ToGrpc(WithReason(absl::UnavailableError("the store has failed"), "STORE_FAILED"));
  };
  CoordinatorClient client(ConfigOf({server.endpoint()}), absl::Milliseconds(300));
  const absl::Status status = client.GetJob("a").status();
  EXPECT_EQ(status.message(), "the store has failed");
  EXPECT_EQ(ReasonOf(status), "STORE_FAILED");
}

TEST(CoordinatorClient, GivesUpOnACoordinatorThatDoesNotAnswer) {
  ScriptedCoordinator server;
  server.get_job = [](grpc::ServerContext* context) {
    ham::testing::AwaitCancelled(context);
    return grpc::Status::CANCELLED;
  };
  CoordinatorClient client(ConfigOf({server.endpoint()}), absl::Milliseconds(200));
  EXPECT_EQ(client.GetJob("a").status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(CoordinatorClient, DoesNotTryAgainWhatWasRefused) {
  ScriptedCoordinator server;
  server.get_job = [](grpc::ServerContext*) { return grpc::Status(grpc::StatusCode::NOT_FOUND, "no such job"); };
  CoordinatorClient client(ConfigOf({server.endpoint()}), absl::Seconds(10));
  EXPECT_EQ(client.GetJob("a").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(server.calls, 1);
}

class TransferTest : public ::testing::Test {
 protected:
  TransferTest() { ham::testing::WriteTestFile(path_, text_); }

  absl::Status Upload(const std::string& path) {
    return client_.UploadWeights(path, "digest", static_cast<int64_t>(text_.size()));
  }

  const std::string text_ = std::string(1 << 20, 'a') + std::string(1 << 20, 'b') + "c";
  const ham::testing::TemporaryDirectory directory_;
  const std::string path_ = directory_ / "weights";
  ScriptedCoordinator server_;
  CoordinatorClient client_{ConfigOf({server_.endpoint()}), absl::Seconds(10)};
};

TEST_F(TransferTest, WeightsGoInOrderAndAgainWhereTheCoordinatorWasAway) {
  ham::testing::Uploaded last;
  server_.upload = [&](auto* reader) {
    if (server_.calls == 1) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "stopping");
    last = ham::testing::ReceiveUpload(reader);
    return grpc::Status::OK;
  };
  const absl::Status status = Upload(path_);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(server_.calls, 2);
  EXPECT_EQ(last.digest, "digest");
  EXPECT_EQ(last.size, static_cast<int64_t>(text_.size()));
  EXPECT_EQ(last.chunks, 3u);
  EXPECT_TRUE(last.text == text_);
}

TEST_F(TransferTest, WeightsThatTheCoordinatorHasAreNotSentToTheirEnd) {
  server_.upload = [](auto*) { return grpc::Status::OK; };
  EXPECT_TRUE(Upload(path_).ok());
  server_.upload = [](auto*) { return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the disk is full"); };
  EXPECT_TRUE(absl::IsResourceExhausted(Upload(path_)));
}

TEST_F(TransferTest, AFileThatCannotBeReadIsNamed) {
  server_.upload = [](auto* reader) {
    ham::testing::ReceiveUpload(reader);
    return grpc::Status::OK;
  };
  ham::testing::WriteTestFile(path_, "short");
  for (const std::string& path : {path_, directory_ / "none"}) {
    const absl::Status status = Upload(path);
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(path));
  }
}

TEST_F(TransferTest, ARecordComesInPieces) {
  server_.record = [this](const std::string& job, auto* writer) {
    ham::v1::GetEvaluationRecordResponse response;
    response.set_data(job);
    writer->Write(response);
    if (server_.calls == 1) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "stopping");
    response.set_data(" rest");
    writer->Write(response);
    return grpc::Status::OK;
  };
  EXPECT_EQ(client_.GetEvaluationRecord("j").value(), "j rest");
  server_.record = [](const std::string&, auto*) { return grpc::Status(grpc::StatusCode::NOT_FOUND, "no such job"); };
  EXPECT_TRUE(absl::IsNotFound(client_.GetEvaluationRecord("j").status()));
}

TEST_F(TransferTest, ARecordWithoutEndIsRefused) {
  server_.record = [](const std::string&, auto* writer) {
    ham::v1::GetEvaluationRecordResponse response;
    response.set_data(std::string(1 << 20, 'x'));
    while (writer->Write(response)) {
    }
    return grpc::Status::OK;
  };
  EXPECT_TRUE(absl::IsDataLoss(client_.GetEvaluationRecord("j").status()));
}

TEST(CoordinatorClient, RefusesToCreateWithoutARequestId) {
  CoordinatorClient client(ConfigOf({"127.0.0.1:1"}), absl::Seconds(1));
  EXPECT_EQ(client.CreateJob({}).status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace ham::client
