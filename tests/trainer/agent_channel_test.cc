#include "worker/trainer/agent_channel.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "proto/strict_json.h"
#include "worker/ipc/frame.h"

namespace ham::trainer {
namespace {

using nlohmann::json;

// The test plays the agent.
class AgentChannelTest : public ::testing::Test {
 protected:
  AgentChannelTest() {
    int fds[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    agent_ = fds[0];
    AgentChannel::Callbacks callbacks;
    callbacks.on_end = [this](const absl::Status& status) {
      end_ = status;
      ended_.Notify();
    };
    callbacks.on_checkpoint_done = [this](const std::string& manifest, const absl::Status& status) {
      checkpoints_.push_back(absl::StrCat(manifest, " ", status.message()));
    };
    callbacks.on_work = [this](const json& frame) {
      work_.push_back(frame);
      return frame.contains("blocks") ? absl::OkStatus() : absl::InvalidArgumentError("no blocks");
    };
    channel_ = std::make_unique<AgentChannel>(fds[1], callbacks);
  }
  ~AgentChannelTest() override {
    channel_.reset();
    Close();
  }
  void Close() {
    if (agent_ >= 0) ::close(agent_);
    agent_ = -1;
  }
  void Send(const json& message) { ASSERT_TRUE(ipc::WriteFrame(agent_, message).ok()); }
  json Receive() {
    absl::StatusOr<json> message = ipc::ReadFrame(agent_);
    EXPECT_TRUE(message.ok()) << message.status();
    return message.ok() ? *message : json::object();
  }
  absl::Status End() {
    EXPECT_TRUE(ended_.WaitForNotificationWithTimeout(absl::Seconds(20)));
    return end_;
  }

  int agent_ = -1;
  absl::Status end_;
  absl::Notification ended_;
  std::vector<std::string> checkpoints_;
  std::vector<json> work_;
  std::unique_ptr<AgentChannel> channel_;
};

TEST_F(AgentChannelTest, SendsFramesAndDeliversStart) {
  ASSERT_TRUE(channel_->Send({{"type", "hello"}, {"build_id", "b"}}).ok());
  EXPECT_EQ(Receive(), json({{"type", "hello"}, {"build_id", "b"}}));
  Send({{"type", "start"}, {"rank", 3}});
  const auto start = channel_->WaitForStart(absl::Seconds(20));
  ASSERT_TRUE(start.ok()) << start.status();
  EXPECT_EQ(start->at("rank"), 3);
}

TEST_F(AgentChannelTest, WaitingForStartEndsAtItsTimeout) {
  EXPECT_TRUE(absl::IsDeadlineExceeded(channel_->WaitForStart(absl::Milliseconds(50)).status()));
}

TEST_F(AgentChannelTest, RelaysTheRendezvousAsBase64) {
  const std::string bytes("\0\xff value", 8);
  absl::Status set;
  std::thread setter([&] { set = channel_->store().Set("k", bytes); });
  const json request = Receive();
  EXPECT_EQ(request.at("type"), "store_set");
  EXPECT_EQ(request.at("value"), Base64Encode(bytes));
  Send({{"type", "store_reply"}, {"id", request.at("id")}, {"ok", true}, {"value", ""}, {"error", ""}});
  setter.join();
  EXPECT_TRUE(set.ok()) << set;

  absl::StatusOr<std::string> got;
  std::thread getter([&] { got = channel_->store().Get("k", absl::Seconds(7)); });
  const json get = Receive();
  EXPECT_EQ(get.at("type"), "store_get");
  EXPECT_EQ(get.at("timeout_seconds"), 7.0);
  Send({{"type", "store_reply"}, {"id", get.at("id")}, {"ok", true}, {"value", request.at("value")}, {"error", ""}});
  getter.join();
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(*got, bytes);
}

TEST_F(AgentChannelTest, MatchesRepliesByIdInAnyOrder) {
  absl::StatusOr<std::string> values[2];
  std::thread getters[2];
  json requests[2];
  for (int i = 0; i < 2; ++i) {
    getters[i] = std::thread([&, i] { values[i] = channel_->store().Get(absl::StrCat("k", i), absl::Seconds(20)); });
    requests[i] = Receive();
  }
  Send({{"type", "store_reply"}, {"id", 999}, {"ok", true}, {"value", ""}});  // of a caller that gave up
  for (const int i : {1, 0}) {
    const std::string key = requests[i].at("key");
    Send({{"type", "store_reply"}, {"id", requests[i].at("id")}, {"ok", true}, {"value", Base64Encode(key)}});
  }
  for (int i = 0; i < 2; ++i) {
    getters[i].join();
    EXPECT_EQ(values[i].value_or("none"), absl::StrCat("k", i));
  }
}

TEST_F(AgentChannelTest, ARefusedKeyIsUnavailableWithTheAgentsWords) {
  absl::StatusOr<std::string> got;
  std::thread getter([&] { got = channel_->store().Get("k", absl::Seconds(20)); });
  const json request = Receive();
  Send({{"type", "store_reply"}, {"id", request.at("id")}, {"ok", false}, {"error", "the attempt has ended"}});
  getter.join();
  EXPECT_TRUE(absl::IsUnavailable(got.status())) << got.status();
  EXPECT_NE(got.status().message().find("the attempt has ended"), std::string::npos);
}

TEST_F(AgentChannelTest, ARefusalAfterTheTimeoutIsDeadlineExceeded) {
  absl::StatusOr<std::string> got;
  std::thread getter([&] { got = channel_->store().Get("k", absl::Milliseconds(1)); });
  const json request = Receive();
  EXPECT_EQ(request.at("timeout_seconds"), 0.001);
  const absl::Time begin = absl::Now();
  while (absl::Now() - begin < absl::Milliseconds(2)) {
  }
  Send({{"type", "store_reply"}, {"id", request.at("id")}, {"ok", false}, {"error", "not set"}});
  getter.join();
  EXPECT_TRUE(absl::IsDeadlineExceeded(got.status())) << got.status();
}

TEST_F(AgentChannelTest, AsksForNothingWhenNoTimeIsLeft) {
  for (const absl::Duration timeout : {absl::ZeroDuration(), absl::Nanoseconds(1), absl::Seconds(-1)}) {
    EXPECT_TRUE(absl::IsDeadlineExceeded(channel_->store().Get("k", timeout).status()));
  }
  ASSERT_TRUE(channel_->Send({{"type", "next"}}).ok());
  EXPECT_EQ(Receive().at("type"), "next");
}

TEST_F(AgentChannelTest, AnAnswerThatIsNotBase64IsNoFaultOfTheUsers) {
  absl::StatusOr<std::string> got;
  std::thread getter([&] { got = channel_->store().Get("k", absl::Seconds(20)); });
  const json request = Receive();
  Send({{"type", "store_reply"}, {"id", request.at("id")}, {"ok", true}, {"value", "!"}});
  getter.join();
  EXPECT_TRUE(absl::IsFailedPrecondition(got.status())) << got.status();
}

TEST_F(AgentChannelTest, TheEndOfTheAgentWakesAllWhoWait) {
  absl::StatusOr<std::string> got;
  absl::StatusOr<json> start;
  std::thread getter([&] { got = channel_->store().Get("k", absl::Minutes(10)); });
  std::thread waiter([&] { start = channel_->WaitForStart(absl::Minutes(10)); });
  Receive();
  Close();
  getter.join();
  waiter.join();
  EXPECT_TRUE(absl::IsUnavailable(got.status())) << got.status();
  EXPECT_TRUE(absl::IsUnavailable(start.status())) << start.status();
  EXPECT_TRUE(absl::IsUnavailable(End()));
  EXPECT_TRUE(absl::IsUnavailable(channel_->store().Set("k", "v")));
  EXPECT_TRUE(absl::IsUnavailable(channel_->Send({{"type", "x"}})));
}

TEST_F(AgentChannelTest, ReportsCheckpoints) {
  Send({{"type", "checkpoint_done"}, {"manifest", "/a"}, {"ok", true}, {"error", ""}});
  Send({{"type", "checkpoint_done"}, {"manifest", "/b"}, {"ok", false}, {"error", "disk full"}});
  Close();
  EXPECT_FALSE(End().ok());  // the callbacks above came before it, from one thread
  EXPECT_EQ(checkpoints_, (std::vector<std::string>{"/a ", "/b disk full"}));
}

TEST_F(AgentChannelTest, HandsOnWorkUntilItIsNone) {
  const std::vector<json> sent = {{{"type", "work"}, {"blocks", 1}}, {{"type", "work"}, {"blocks", 2}}};
  for (const json& frame : sent) Send(frame);
  Send({{"type", "work"}});
  EXPECT_EQ(End(), absl::FailedPreconditionError("no blocks"));
  EXPECT_EQ(work_.size(), 3);
  EXPECT_TRUE(std::equal(sent.begin(), sent.end(), work_.begin()));
}

TEST_F(AgentChannelTest, MessagesOutOfTheProtocolEndIt) {
  Send({{"type", "start"}});
  Send({{"type", "start"}});
  EXPECT_TRUE(absl::IsFailedPrecondition(End()));
}

class BadFrameTest : public AgentChannelTest, public ::testing::WithParamInterface<const char*> {};

INSTANTIATE_TEST_SUITE_P(Frames, BadFrameTest,
                         ::testing::Values(R"({"type":"launch"})", R"({"type":"store_reply"})",
                                           R"({"type":"store_reply","id":"1","ok":true,"value":""})",
                                           R"({"type":"store_reply","id":1,"ok":1,"value":""})",
                                           R"({"type":"store_reply","id":1,"ok":true})",
                                           R"({"type":"store_reply","id":1,"ok":false})",
                                           R"({"type":"checkpoint_done","ok":true})",
                                           R"({"type":"checkpoint_done","manifest":"m","ok":false})"));

TEST_P(BadFrameTest, EndsTheChannelWithWhatIsWrong) {
  Send(json::parse(GetParam()));
  const absl::Status status = End();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
}

TEST_F(AgentChannelTest, ItsOwnDestructionIsNoEndOfTheAgent) {
  channel_.reset();
  EXPECT_FALSE(ended_.HasBeenNotified());
}

}  // namespace
}  // namespace ham::trainer
