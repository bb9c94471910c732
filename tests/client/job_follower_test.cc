#include "client/job_follower.h"

#include <gtest/gtest.h>

#include <thread>

#include "absl/time/clock.h"
#include "tests/client/scripted_coordinator.h"

namespace ham::client {
namespace {

using ham::testing::ConfigOf;
using ham::testing::ScriptedCoordinator;
using ham::v1::WatchJobRequest;
using ham::v1::WatchJobResponse;
using Writer = grpc::ServerWriter<WatchJobResponse>;

class Sequences : public FollowSink {
 public:
  void Receive(const WatchJobResponse& response) override {
    for (const auto& record : response.records()) seen.push_back(record.sequence());
    if (on_receive) on_receive();
  }
  void Lost(const absl::Status&) override { ++lost; }

  std::vector<int64_t> seen;
  int lost = 0;
  std::function<void()> on_receive;
};

WatchJobResponse Response(int64_t sequence, ham::v1::Job::State state) {
  WatchJobResponse response;
  response.mutable_job()->set_state(state);
  response.add_records()->set_sequence(sequence);
  response.set_token(std::to_string(sequence));
  return response;
}

int64_t After(const WatchJobRequest& request) { return request.token().empty() ? 0 : std::stoll(request.token()); }

// Sends one record a stream and breaks it; the third ends the job.
grpc::Status OneRecordAStream(const WatchJobRequest& request, Writer* writer, grpc::StatusCode code) {
  const int64_t next = After(request) + 1;
  writer->Write(Response(next, next == 3 ? ham::v1::Job::SUCCEEDED : ham::v1::Job::RUNNING));
  return next == 3 ? grpc::Status::OK : grpc::Status(code, "broken");
}

FollowRequest RequestFor(const std::string& job) {
  FollowRequest request;
  request.job = job;
  return request;
}

TEST(FollowJob, ResumesAtItsTokenSoThatNoRecordIsMissedOrSeenTwice) {
  for (const grpc::StatusCode code : {grpc::StatusCode::UNAVAILABLE, grpc::StatusCode::RESOURCE_EXHAUSTED}) {
    ScriptedCoordinator server;
    server.watch = [code](grpc::ServerContext*, const WatchJobRequest& request, Writer* writer) {
      return OneRecordAStream(request, writer, code);
    };
    CoordinatorClient client(ConfigOf({server.endpoint()}), absl::Seconds(10));
    CallCancel cancel;
    Sequences sink;
    const auto job = FollowJob(&client, RequestFor("j"), &cancel, &sink);
    ASSERT_TRUE(job.ok()) << job.status();
    EXPECT_EQ(job->state(), ham::v1::Job::SUCCEEDED);
    EXPECT_EQ(sink.seen, (std::vector<int64_t>{1, 2, 3}));
    EXPECT_EQ(sink.lost, 2);
  }
}

TEST(FollowJob, ComesBackToACoordinatorThatWasRestarted) {
  auto server = std::make_unique<ScriptedCoordinator>();
  const int port = server->port();
  const auto watch = [](grpc::ServerContext* context, const WatchJobRequest& request, Writer* writer) {
    const int64_t next = After(request) + 1;
    writer->Write(Response(next, next == 2 ? ham::v1::Job::FAILED : ham::v1::Job::RUNNING));
    if (next == 1) ham::testing::AwaitCancelled(context);
    return grpc::Status::OK;
  };
  server->watch = watch;
  CoordinatorClient client(ConfigOf({server->endpoint()}), absl::Seconds(10));
  CallCancel cancel;
  Sequences sink;
  std::thread restart;
  sink.on_receive = [&] {
    if (sink.seen.size() > 1) return;
    restart = std::thread([&] {
      server->Stop();
      server = std::make_unique<ScriptedCoordinator>(port);
      server->watch = watch;
    });
  };
  const auto job = FollowJob(&client, RequestFor("j"), &cancel, &sink);
  restart.join();
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->state(), ham::v1::Job::FAILED);
  EXPECT_EQ(sink.seen, (std::vector<int64_t>{1, 2}));
}

TEST(FollowJob, CountsItsLimitFromTheLossAndNotFromTheLastRecord) {
  ScriptedCoordinator server;
  int streams = 0;
  FollowRequest request = RequestFor("j");
  request.reconnect_limit = absl::Milliseconds(500);
  server.watch = [&](grpc::ServerContext*, const WatchJobRequest& watch, Writer* writer) {
    if (++streams == 1) {
      writer->Write(Response(1, ham::v1::Job::QUEUED));
      absl::SleepFor(request.reconnect_limit * 1.2);  // a quiet job
    }
    if (streams <= 2) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "restarting");
    writer->Write(Response(After(watch) + 1, ham::v1::Job::SUCCEEDED));
    return grpc::Status::OK;
  };
  CoordinatorClient client(ConfigOf({server.endpoint()}), absl::Seconds(10));
  CallCancel cancel;
  Sequences sink;
  const auto job = FollowJob(&client, request, &cancel, &sink);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(sink.seen, (std::vector<int64_t>{1, 2}));
}

TEST(FollowJob, EndsSoonWhenItIsCancelled) {
  ScriptedCoordinator server;
  server.watch = [](grpc::ServerContext* context, const WatchJobRequest&, Writer* writer) {
    writer->Write(Response(1, ham::v1::Job::RUNNING));
    ham::testing::AwaitCancelled(context);
    return grpc::Status::OK;
  };
  CoordinatorClient client(ConfigOf({server.endpoint()}), absl::Seconds(10));
  CallCancel cancel;
  Sequences sink;
  sink.on_receive = [&] { cancel.Cancel(); };
  EXPECT_EQ(FollowJob(&client, RequestFor("j"), &cancel, &sink).status().code(), absl::StatusCode::kCancelled);
}

TEST(FollowJob, GivesUpAfterMaxWait) {
  ScriptedCoordinator server;
  server.watch = [](grpc::ServerContext* context, const WatchJobRequest&, Writer*) {
    ham::testing::AwaitCancelled(context);
    return grpc::Status::OK;
  };
  CoordinatorClient client(ConfigOf({server.endpoint()}), absl::Seconds(10));
  CallCancel cancel;
  Sequences sink;
  FollowRequest request = RequestFor("j");
  request.max_wait = absl::Milliseconds(200);
  EXPECT_EQ(FollowJob(&client, request, &cancel, &sink).status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(FollowJob, GivesUpOnACoordinatorThatStaysAway) {
  CoordinatorClient client(ConfigOf({ham::testing::DeadEndpoint()}), absl::Seconds(10));
  CallCancel cancel;
  Sequences sink;
  FollowRequest request = RequestFor("j");
  request.reconnect_limit = absl::Milliseconds(100);
  EXPECT_EQ(FollowJob(&client, request, &cancel, &sink).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_GE(sink.lost, 1);
}

TEST(FollowJob, PassesRefusalsOn) {
  ScriptedCoordinator server;
  server.watch = [](grpc::ServerContext*, const WatchJobRequest&, Writer*) {
    return grpc::Status(grpc::StatusCode::OUT_OF_RANGE, "pruned");
  };
  CoordinatorClient client(ConfigOf({server.endpoint()}), absl::Seconds(10));
  CallCancel cancel;
  Sequences sink;
  EXPECT_EQ(FollowJob(&client, RequestFor("j"), &cancel, &sink).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(server.calls, 1);
}

}  // namespace
}  // namespace ham::client
