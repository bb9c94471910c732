#include "worker/trainer/evaluation/block_queue.h"

#include <thread>

#include <gtest/gtest.h>

namespace ham::trainer {
namespace {

using nlohmann::json;

const WorkBlock kA{-1, {0, 1}}, kB{-1, {2}}, kC{0, {0, 1}};

std::optional<WorkBlock> TakeNow(BlockQueue* queue) { return queue->Take(absl::ZeroDuration()); }

TEST(BlockQueue, GivesBlocksInTheirOrderEachOnce) {
  BlockQueue queue;
  EXPECT_EQ(TakeNow(&queue), std::nullopt);
  queue.Replace({kA, kB});
  EXPECT_EQ(TakeNow(&queue), kA);
  EXPECT_EQ(TakeNow(&queue), kB);
  EXPECT_EQ(TakeNow(&queue), std::nullopt);
}

TEST(BlockQueue, WhatIsDoneAndStillListedIsNotDoneAgain) {
  BlockQueue queue;
  queue.Replace({kA, kB});
  EXPECT_EQ(TakeNow(&queue), kA);
  queue.Replace({kA, kB, kC});
  EXPECT_EQ(TakeNow(&queue), kB);
  queue.Replace({kB, kA, kC});
  EXPECT_EQ(TakeNow(&queue), kC);
  queue.Replace({kA, kB, kC});
  EXPECT_EQ(TakeNow(&queue), std::nullopt);
  queue.Replace({kC, kA});
  EXPECT_EQ(TakeNow(&queue), std::nullopt);
}

TEST(BlockQueue, WhatIsNoLongerListedAndNotBegunIsDropped) {
  BlockQueue queue;
  queue.Replace({kA, kB, kC});
  EXPECT_EQ(TakeNow(&queue), kA);
  queue.Replace({kC});
  EXPECT_EQ(TakeNow(&queue), kC);
  EXPECT_EQ(TakeNow(&queue), std::nullopt);
}

TEST(BlockQueue, WhatIsUnderWorkIsNotGivenAgainHoweverListsComeAndGo) {
  BlockQueue queue;
  queue.Replace({kA});
  EXPECT_EQ(TakeNow(&queue), kA);
  queue.Replace({});
  queue.Replace({kA, kB});
  EXPECT_EQ(TakeNow(&queue), kB);
}

TEST(BlockQueue, WhatIsListedAgainAfterItsEndIsDoneAgain) {
  BlockQueue queue;
  queue.Replace({kA});
  EXPECT_EQ(TakeNow(&queue), kA);
  queue.Replace({});
  EXPECT_EQ(TakeNow(&queue), std::nullopt);
  queue.Replace({kA});
  EXPECT_EQ(TakeNow(&queue), kA);
}

TEST(BlockQueue, WakesWhoWaits) {
  BlockQueue queue;
  std::optional<WorkBlock> taken;
  std::thread taker([&] { taken = queue.Take(absl::Minutes(10)); });
  queue.Replace({kC});
  taker.join();
  EXPECT_EQ(taken, kC);
}

TEST(ParseWork, ReadsWhatTheAgentSends) {
  const auto blocks =
      ParseWork(json::parse(R"({"type":"work","blocks":[{"stage":-1,"rows":[0,4294967295]},{"stage":2,"rows":[]}]})"));
  ASSERT_TRUE(blocks.ok()) << blocks.status();
  EXPECT_EQ(*blocks, (std::vector<WorkBlock>{{-1, {0, 4294967295}}, {2, {}}}));
  EXPECT_TRUE(ParseWork(json::parse(R"({"type":"work","blocks":[]})"))->empty());
}

TEST(ParseWork, RefusesAllElse) {
  for (const char* text : {R"({"type":"work"})", R"({"blocks":{}})", R"({"blocks":[1]})", R"({"blocks":[{}]})",
                           R"({"blocks":[{"stage":0}]})", R"({"blocks":[{"stage":0,"rows":[],"more":1}]})",
                           R"({"blocks":[{"stage":0.5,"rows":[]}]})", R"({"blocks":[{"stage":-2,"rows":[]}]})",
                           R"({"blocks":[{"stage":2147483648,"rows":[]}]})", R"({"blocks":[{"stage":0,"rows":{}}]})",
                           R"({"blocks":[{"stage":0,"rows":[-1]}]})", R"({"blocks":[{"stage":0,"rows":["1"]}]})",
                           R"({"blocks":[{"stage":0,"rows":[4294967296]}]})"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseWork(json::parse(text)).status())) << text;
  }
}

}  // namespace
}  // namespace ham::trainer
