#include "client/coordinator_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "proto/rpc_status.h"
#include "tests/client/scripted_coordinator.h"

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

TEST(CoordinatorClient, RefusesToCreateWithoutARequestId) {
  CoordinatorClient client(ConfigOf({"127.0.0.1:1"}), absl::Seconds(1));
  EXPECT_EQ(client.CreateJob({}).status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace ham::client
