#include "worker/trainer/train_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/toy_spec_json.h"

namespace ham::trainer {
namespace {

using ham::testing::ToySpecJson;
using nlohmann::json;
using ::testing::HasSubstr;

TEST(TrainSpecTest, ReadsEveryOption) {
  json spec = ToySpecJson();
  spec["train"]["optimizer"]["schedule"] = "step";
  spec["train"]["optimizer"]["milestones"] = {2, 5};
  const auto parsed = ParseTrainSpec(spec);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->data.name, "fashion-mnist");
  EXPECT_EQ(parsed->method.mining_step, 2);
  EXPECT_EQ(parsed->method.retained_easy_share, 0.25);
  EXPECT_EQ(parsed->optimizer.milestones, (std::vector<int>{2, 5}));
  EXPECT_EQ(parsed->seed, ~uint64_t{0});
  EXPECT_EQ(parsed->evaluation.suites.at(0).attacks.at(0).steps, 2);
  EXPECT_EQ(parsed->batch_size, 32);
}

TEST(TrainSpecTest, EveryKeyIsNeeded) {
  const json whole = ToySpecJson().flatten();
  int removed = 0;
  for (const auto& [pointer, value] : whole.items()) {
    if (value.is_array() || value.is_null()) continue;  // an empty list
    json flat = whole;
    flat.erase(pointer);
    const auto parsed = ParseTrainSpec(flat.unflatten());
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << pointer;
    ++removed;
  }
  EXPECT_GT(removed, 30);
}

struct BadValue {
  const char* pointer;
  json value;
  const char* message;
};

TEST(TrainSpecTest, WrongValuesAreNamedByTheirPath) {
  const std::vector<BadValue> cases = {
      {"/train/extra", 1, "train.extra is not known"},
      {"/train/attack/extra", 1, "train.attack.extra is not known"},
      {"/other", json::object(), "other is not known"},
      {"/train/attack", json(), "train.attack is not an object"},
      {"/train/attack/epsilon", "8/255", "train.attack.epsilon is \"8/255\"; it must be a number"},
      {"/train/attack/epsilon", 0.0, "train.attack.epsilon is 0; allowed is (0, 1]"},
      {"/train/attack/steps", 2.5, "train.attack.steps is 2.5; it must be a whole number"},
      {"/train/attack/steps", 1001, "train.attack.steps is 1001; allowed is 1 to 1000"},
      {"/train/attack/random_start", 1, "train.attack.random_start is 1; it must be true or false"},
      {"/train/method/name", "trades", "train.method.name is \"trades\"; allowed is one of: pgd-at, ham"},
      {"/train/method/mining_step", 4, "train.method.mining_step is 4; allowed is 1 to 3"},
      {"/train/method/minimum_hard", 33, "train.method.minimum_hard is 33; allowed is 1 to 32"},
      {"/train/ema_decay", 1.0, "train.ema_decay is 1; allowed is [0, 1)"},
      {"/train/seed", "-1", "train.seed is \"-1\""},
      {"/train/seed", "1x", "train.seed is \"1x\""},
      {"/train/optimizer/milestones", {3, 3}, "train.optimizer.milestones holds 3"},
      {"/train/optimizer/milestones", "3", "train.optimizer.milestones is not a list"},
      {"/train/evaluation/suites/0/attacks", json::array(), "train.evaluation.suites[0].attacks is empty"},
      {"/train/evaluation/suites/0/attacks/0/loss", "cw", "train.evaluation.suites[0].attacks[0].loss is \"cw\""},
      {"/train/resources/device", "cuda", "train.resources.device is \"cuda\""},
      {"/train/resources/world_size", 33, "train.resources.world_size is 33"},
  };
  for (const BadValue& bad : cases) {
    json spec = ToySpecJson();
    spec[json::json_pointer(bad.pointer)] = bad.value;
    const auto parsed = ParseTrainSpec(spec);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << bad.pointer;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(bad.message));
  }
}

TEST(TrainSpecTest, TwoSuitesOfOneNameAreRefused) {
  json spec = ToySpecJson();
  spec["train"]["evaluation"]["final_suites"] = spec["train"]["evaluation"]["suites"];
  EXPECT_THAT(std::string(ParseTrainSpec(spec).status().message()),
              HasSubstr("train.evaluation.final_suites[0].name is \"pgd\", which another suite has"));
}

TEST(TrainSpecTest, WhatIsNoObjectIsRefused) {
  EXPECT_EQ(ParseTrainSpec(json::array()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ParseTrainSpec(json()).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace ham::trainer
