#include "server/phase_seconds_counter.h"

#include <gtest/gtest.h>

#include <cmath>

namespace ham::server {
namespace {

double After(PhaseSecondsCounter* counter, double attack, bool end_of_epoch) {
  ham::v1::TrainMetrics train;
  train.mutable_phase_seconds()->set_attack(attack);
  train.set_end_of_epoch(end_of_epoch);
  counter->Add(train);
  return counter->seconds().at("attack");
}

TEST(PhaseSecondsCounterTest, CountsEachSecondOnce) {
  PhaseSecondsCounter counter;
  counter.Add({});
  EXPECT_TRUE(counter.seconds().empty());
  EXPECT_EQ(After(&counter, 2, false), 2);
  EXPECT_EQ(After(&counter, 2.5, false), 4.5);
  EXPECT_EQ(After(&counter, 6, true), 6);
  EXPECT_EQ(After(&counter, 5, true), 11);  // a short epoch has no point within it
  EXPECT_EQ(After(&counter, 1, false), 12);
  EXPECT_EQ(counter.seconds().size(), 7);
  EXPECT_EQ(counter.seconds().at("all_reduce"), 0);
}

TEST(PhaseSecondsCounterTest, NeverFalls) {
  PhaseSecondsCounter counter;
  EXPECT_EQ(After(&counter, 9, false), 9);
  EXPECT_EQ(After(&counter, 4, true), 9);  // what came after the checkpoint was lost with its attempt
  EXPECT_EQ(After(&counter, -3, false), 9);
  EXPECT_EQ(After(&counter, std::nan(""), false), 9);
  EXPECT_EQ(After(&counter, INFINITY, true), 9);
  EXPECT_EQ(After(&counter, 1, true), 10);
}

}  // namespace
}  // namespace ham::server
