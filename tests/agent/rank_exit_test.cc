#include "worker/agent/rank_exit.h"

#include <gtest/gtest.h>

#include <csignal>
#include <string>

namespace ham::agent {
namespace {

using ham::v1::RankExit;

int Exited(int code) { return code << 8; }
int Signalled(int signal) { return signal; }

ExitFacts Facts(int wait_status, bool done) {
  ExitFacts facts;
  facts.wait_status = wait_status;
  facts.done = done;
  return facts;
}
ExitFacts Failed(const std::string& failed_class, const std::string& message) {
  ExitFacts facts = Facts(Exited(1), false);
  facts.failed_class = failed_class;
  facts.failed_message = message;
  return facts;
}

TEST(RankExit, DoneAndStatusZeroIsSuccess) {
  const RankExit exit = ClassifyExit(Facts(Exited(0), true));
  EXPECT_TRUE(exit.success());
  EXPECT_EQ(exit.exit_code(), 0);
  EXPECT_EQ(exit.signal(), 0);
  EXPECT_EQ(exit.failure_class(), ham::v1::FAILURE_CLASS_UNSPECIFIED);
  EXPECT_EQ(exit.message(), "");
}

TEST(RankExit, StatusZeroBeforeTheWorkIsDoneIsACrash) {
  const RankExit exit = ClassifyExit(Facts(Exited(0), false));
  EXPECT_FALSE(exit.success());
  EXPECT_EQ(exit.failure_class(), ham::v1::TRAINER_CRASH);
  EXPECT_EQ(exit.exit_code(), 0);
}

TEST(RankExit, AnotherStatusIsACrashEvenAfterDone) {
  const RankExit exit = ClassifyExit(Facts(Exited(3), true));
  EXPECT_FALSE(exit.success());
  EXPECT_EQ(exit.failure_class(), ham::v1::TRAINER_CRASH);
  EXPECT_EQ(exit.exit_code(), 3);
  EXPECT_NE(exit.message().find("3"), std::string::npos);
}

// Chaos, seed 855388760.
TEST(RankExit, WhoIsKilledWhileItEndsHasSucceeded) {
  for (const int signal : {SIGKILL, SIGTERM}) {
    const RankExit exit = ClassifyExit(Facts(Signalled(signal), true));
    EXPECT_TRUE(exit.success()) << signal;
    EXPECT_EQ(exit.signal(), signal);
    EXPECT_FALSE(ClassifyExit(Facts(Signalled(signal), false)).success()) << signal;
  }
}

TEST(RankExit, ASignalIsNamed) {
  const RankExit exit = ClassifyExit(Facts(Signalled(SIGSEGV), true));
  EXPECT_EQ(exit.failure_class(), ham::v1::TRAINER_CRASH);
  EXPECT_EQ(exit.exit_code(), -1);
  EXPECT_EQ(exit.signal(), SIGSEGV);
  EXPECT_NE(exit.message().find("Segmentation fault"), std::string::npos) << exit.message();
}

TEST(RankExit, SigtermIsNobodysFault) {
  const RankExit exit = ClassifyExit(Facts(Signalled(SIGTERM), false));
  EXPECT_FALSE(exit.success());
  EXPECT_EQ(exit.failure_class(), ham::v1::PREEMPTED);
  EXPECT_EQ(exit.signal(), SIGTERM);
  EXPECT_NE(exit.message().find("SIGTERM"), std::string::npos) << exit.message();
}

TEST(RankExit, ATrainerSpeaksForItself) {
  for (const auto& [name, expected] :
       {std::pair("USER", ham::v1::USER), std::pair("INFRASTRUCTURE", ham::v1::INFRASTRUCTURE),
        std::pair("HANG", ham::v1::HANG), std::pair("TRAINER_CRASH", ham::v1::TRAINER_CRASH),
        std::pair("PREEMPTED", ham::v1::TRAINER_CRASH), std::pair("WORKER_LOST", ham::v1::TRAINER_CRASH),
        std::pair("nonsense", ham::v1::TRAINER_CRASH)}) {
    const RankExit exit = ClassifyExit(Failed(name, "no such data"));
    EXPECT_FALSE(exit.success());
    EXPECT_EQ(exit.failure_class(), expected) << name;
    EXPECT_EQ(exit.message(), "no such data");
  }
}

TEST(RankExit, TellsWhichRankATrainerLost) {
  ExitFacts facts = Failed("INFRASTRUCTURE", "lost the connection to rank 0");
  EXPECT_FALSE(ClassifyExit(facts).has_lost_rank());
  facts.lost_rank = 0;
  const RankExit exit = ClassifyExit(facts);
  EXPECT_TRUE(exit.has_lost_rank());
  EXPECT_EQ(exit.lost_rank(), 0);
}

TEST(RankExit, WhatTheAgentFoundOutweighsTheRest) {
  ExitFacts facts = Failed("USER", "its own words");
  facts.wait_status = Signalled(SIGKILL);
  facts.done = true;
  facts.broken = absl::InvalidArgumentError("it sent no frame");
  const RankExit exit = ClassifyExit(facts);
  EXPECT_EQ(exit.failure_class(), ham::v1::INFRASTRUCTURE);
  EXPECT_EQ(exit.signal(), SIGKILL);
  EXPECT_EQ(exit.message(), "it sent no frame");
}

TEST(RankExit, WithoutAProcessItIsInfrastructure) {
  const RankExit exit = ClassifyExit({});
  EXPECT_EQ(exit.failure_class(), ham::v1::INFRASTRUCTURE);
  EXPECT_EQ(exit.exit_code(), -1);
}

TEST(RankExit, LongMessagesAreCutBetweenCharacters) {
  std::string text = "a";
  while (text.size() < 9000) text += "\xE2\x82\xAC";  // the euro sign
  const RankExit exit = ClassifyExit(Failed("USER", text));
  EXPECT_LE(exit.message().size(), 4096);
  EXPECT_GT(exit.message().size(), 4090);
  EXPECT_EQ(exit.message().size() % 3, 1);
  EXPECT_EQ(exit.message(), text.substr(0, exit.message().size()));
}

}  // namespace
}  // namespace ham::agent
