#include "worker/trainer/train_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cctype>

#include "tests/support/toy_spec_json.h"

namespace ham::trainer {
namespace {

using ham::testing::ToySpecJson;
using nlohmann::json;
using ::testing::HasSubstr;

json Stage(int start_epoch, double epsilon, double step_size, int steps) {
  return {{"start_epoch", start_epoch}, {"epsilon", epsilon}, {"step_size", step_size}, {"steps", steps}};
}

// No option has the value that TrainSpec has by itself.
json OtherValues() {
  json spec = ToySpecJson();
  json& train = spec["train"];
  train["data"]["validation_share"] = 0.1;
  train["data"]["image_size"] = 160;
  train["data"]["augmentation"] = {
      {"crop_padding", 4}, {"padding", "reflect"}, {"flip", true}, {"cutout", 8}, {"cutmix", 0.5}};
  train["data"].update({{"extra", "1m"}, {"extra_share", 0.7}});
  train["model"] = {
      {"name", "wrn-28-10"}, {"activation", "silu"}, {"extra_block", true}, {"normalization", "data_set"}};
  train["method"].update(
      {{"retained_easy", "high_confidence"}, {"weight_mode", "kappa"}, {"drop_share", 0.1}, {"balance_ranks", true}});
  train["attack"].update({{"random_start", false},
                          {"loss", "dlr"},
                          {"start_distribution", "normal"},
                          {"weights", "average"},
                          {"batch_norm", "training"},
                          {"norm", "l2"},
                          {"stages", json::array({Stage(2, 0.2, 0.05, 4), Stage(5, 0.3, 0.06, 6)})}});
  train["optimizer"].update({{"name", "adamw"},
                             {"weight_decay", 0.01},
                             {"schedule", "step"},
                             {"milestones", {2, 5}},
                             {"gamma", 1},
                             {"nesterov", true},
                             {"decay_norm_and_bias", false},
                             {"warmup_share", 0.2},
                             {"schedule_by", "epoch"},
                             {"factors", {0.5, 0.25}},
                             {"gradient_clip_norm", 3}});
  train["evaluation"]["reestimate_batch_norm"] = true;
  train["evaluation"]["suites"][0]["norm"] = "l2";
  train["evaluation"]["suites"][0]["attacks"][0].update({{"loss", "dlr"}, {"judged_at", "any"}});
  train["accumulation_steps"] = 4;
  train["label_smoothing"] = 0.2;
  train["class_bias"] = {{"running_rate", 0.01}, {"running_decay", 0.9}, {"fit_rounds", 7}, {"fit_step", 0.2}};
  train["precision"] = "tf32";
  train["resources"]["device"] = "cuda";
  train["batch_norm"] = "local";
  train["swa_start_epoch"] = 2;
  train["checkpoint"] = {{"every_iterations", 100}, {"keep_every_epochs", 5}};
  return spec;
}

TEST(TrainSpecTest, ReadsEveryOption) {
  const auto parsed = ParseTrainSpec(OtherValues());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->data.name, "fashion-mnist");
  EXPECT_EQ(parsed->data.train_rows, 64);
  EXPECT_EQ(parsed->data.test_rows, 32);
  EXPECT_EQ(parsed->data.validation_share, 0.1);
  EXPECT_EQ(parsed->data.image_size, 160);
  EXPECT_EQ(parsed->data.augmentation.crop_padding, 4);
  EXPECT_EQ(parsed->data.augmentation.padding, Padding::kReflect);
  EXPECT_TRUE(parsed->data.augmentation.flip);
  EXPECT_EQ(parsed->data.augmentation.cutout, 8);
  EXPECT_EQ(parsed->data.extra, "1m");
  EXPECT_EQ(parsed->data.extra_share, 0.7);
  EXPECT_EQ(parsed->data.augmentation.cutmix, 0.5);
  EXPECT_EQ(parsed->model.name, "wrn-28-10");
  EXPECT_EQ(parsed->model.activation, Activation::kSilu);
  EXPECT_TRUE(parsed->model.extra_block);
  EXPECT_TRUE(parsed->model.normalize);
  EXPECT_TRUE(parsed->method.balance_ranks);
  EXPECT_EQ(parsed->attack.norm, Norm::kL2);
  EXPECT_EQ(parsed->evaluation.suites[0].norm, Norm::kL2);
  EXPECT_EQ(parsed->evaluation.suites[0].attacks[0].judged_at, JudgedAt::kAny);
  EXPECT_EQ(parsed->accumulation_steps, 4);
  EXPECT_EQ(parsed->method.mining_step, 2);
  EXPECT_EQ(parsed->method.retained_easy_share, 0.25);
  EXPECT_EQ(parsed->method.retained_easy, RetainedEasy::kHighConfidence);
  EXPECT_EQ(parsed->method.weight_mode, WeightMode::kKappa);
  EXPECT_EQ(parsed->method.drop_share, 0.1);
  EXPECT_FALSE(parsed->attack.random_start);
  EXPECT_EQ(parsed->attack.loss, AttackLoss::kDlr);
  EXPECT_EQ(parsed->attack.start_distribution, StartDistribution::kNormal);
  EXPECT_EQ(parsed->attack.weights, AttackWeights::kAverage);
  EXPECT_EQ(parsed->attack.batch_norm, AttackBatchNorm::kTraining);
  ASSERT_EQ(parsed->attack.stages.size(), 2u);
  EXPECT_EQ(parsed->attack.stages[1].start_epoch, 5);
  EXPECT_EQ(parsed->attack.stages[1].epsilon, 0.3);
  EXPECT_EQ(parsed->attack.stages[1].step_size, 0.06);
  EXPECT_EQ(parsed->attack.stages[1].steps, 6);
  EXPECT_EQ(parsed->optimizer.name, OptimizerKind::kAdamW);
  EXPECT_EQ(parsed->optimizer.schedule, Schedule::kStep);
  EXPECT_EQ(parsed->optimizer.milestones, (std::vector<int>{2, 5}));
  EXPECT_EQ(parsed->optimizer.factors, (std::vector<double>{0.5, 0.25}));
  EXPECT_TRUE(parsed->optimizer.nesterov);
  EXPECT_FALSE(parsed->optimizer.decay_norm_and_bias);
  EXPECT_EQ(parsed->optimizer.warmup_share, 0.2);
  EXPECT_EQ(parsed->optimizer.schedule_by, ScheduleBy::kEpoch);
  EXPECT_EQ(parsed->optimizer.gradient_clip_norm, 3);
  EXPECT_EQ(parsed->seed, ~uint64_t{0});
  EXPECT_EQ(parsed->evaluation.suites.at(0).attacks.at(0).steps, 2);
  EXPECT_EQ(parsed->evaluation.suites.at(0).attacks.at(0).loss, AttackLoss::kDlr);
  EXPECT_TRUE(parsed->evaluation.reestimate_batch_norm);
  EXPECT_EQ(parsed->batch_size, 32);
  EXPECT_EQ(parsed->label_smoothing, 0.2);
  EXPECT_EQ(parsed->class_bias.running_rate, 0.01);
  EXPECT_EQ(parsed->class_bias.running_decay, 0.9);
  EXPECT_EQ(parsed->class_bias.fit_rounds, 7);
  EXPECT_EQ(parsed->class_bias.fit_step, 0.2);
  EXPECT_EQ(parsed->precision, Precision::kTf32);
  EXPECT_EQ(parsed->device, Device::kCuda);
  EXPECT_EQ(parsed->batch_norm, BatchNormMode::kLocal);
  EXPECT_EQ(parsed->swa_start_epoch, 2);
  EXPECT_EQ(parsed->checkpoint.every_iterations, 100);
  EXPECT_EQ(parsed->checkpoint.keep_every_epochs, 5);
}

// Each name of a choice is read as the value it stands for.
TEST(TrainSpecTest, ReadsEveryChoice) {
  const auto read = [](const char* pointer, const char* name) {
    json spec = ToySpecJson();
    spec[json::json_pointer(pointer)] = name;
    const auto parsed = ParseTrainSpec(spec);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    return parsed.value_or(TrainSpec());
  };
  EXPECT_EQ(read("/train/method/name", "pgd-at").method.name, Method::kPgdAt);
  EXPECT_EQ(read("/train/method/weight_mode", "first_cross").method.weight_mode, WeightMode::kFirstCross);
  EXPECT_EQ(read("/train/method/weight_mode", "delta_max").method.weight_mode, WeightMode::kDeltaMax);
  EXPECT_EQ(read("/train/attack/loss", "margin").attack.loss, AttackLoss::kMargin);
  EXPECT_EQ(read("/train/optimizer/name", "sgd").optimizer.name, OptimizerKind::kSgd);
  EXPECT_EQ(read("/train/optimizer/schedule", "constant").optimizer.schedule, Schedule::kConstant);
  EXPECT_EQ(read("/train/optimizer/schedule", "one-cycle").optimizer.schedule, Schedule::kOneCycle);
  EXPECT_EQ(read("/train/precision", "fp64").precision, Precision::kFp64);
  EXPECT_EQ(read("/train/precision", "bf16").precision, Precision::kBf16);
}

TEST(TrainSpecTest, EveryKeyIsNeeded) {
  const json whole = OtherValues().flatten();
  int removed = 0;
  for (const auto& [pointer, value] : whole.items()) {
    // An empty list, or an entry of one.
    if (value.is_null() || std::isdigit(static_cast<unsigned char>(pointer.back()))) continue;
    json flat = whole;
    flat.erase(pointer);
    const auto parsed = ParseTrainSpec(flat.unflatten());
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << pointer;
    ++removed;
  }
  EXPECT_GT(removed, 60);
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
      {"/train/data/validation_share", 0.6, "train.data.validation_share is 0.6; allowed is [0, 0.5]"},
      {"/train/data/image_size", 161, "train.data.image_size is 161"},
      {"/train/data/extra", "../1m", "train.data.extra is \"../1m\"; allowed is"},
      {"/train/data/extra", 5, "train.data.extra is 5; it must be a text"},
      {"/train/data/extra_share", 0.5, "train.data.extra_share is 0.5 without extra data"},
      {"/train/data/extra_share", 1, "train.data.extra_share is 1; allowed is [0, 1)"},
      {"/train/data/augmentation/crop_padding", 17, "train.data.augmentation.crop_padding is 17"},
      {"/train/data/augmentation/padding", "wrap", "train.data.augmentation.padding is \"wrap\""},
      {"/train/data/augmentation/cutout", 257, "train.data.augmentation.cutout is 257"},
      {"/train/data/augmentation/cutmix", 1.5, "train.data.augmentation.cutmix is 1.5; allowed is [0, 1]"},
      {"/train/model/normalization", "batch",
       "train.model.normalization is \"batch\"; allowed is one of: none, data_set"},
      {"/train/attack/norm", "l1", "train.attack.norm is \"l1\"; allowed is one of: linf, l2"},
      {"/train/attack/epsilon", 1.5, "train.attack.epsilon is 1.5; allowed is (0, 1]"},
      {"/train/evaluation/suites/0/norm", "l0", "suites[0].norm is \"l0\""},
      {"/train/evaluation/suites/0/attacks/0/judged_at", "first",
       "judged_at is \"first\"; allowed is one of: last, any"},
      {"/train/accumulation_steps", 33, "train.accumulation_steps is 33; allowed is 1 to 32"},
      {"/train/data/augmentation/extra", 1, "train.data.augmentation.extra is not known"},
      {"/train/model/activation", "gelu", "train.model.activation is \"gelu\"; allowed is one of: relu, silu"},
      {"/train/method/retained_easy", "low", "train.method.retained_easy is \"low\""},
      {"/train/method/weight_mode", "x", "train.method.weight_mode is \"x\""},
      {"/train/method/drop_share", 1.0, "train.method.drop_share is 1; allowed is [0, 1)"},
      {"/train/attack/loss", "cw", "train.attack.loss is \"cw\"; allowed is one of: cross_entropy, margin, dlr"},
      {"/train/attack/stages", json::object(), "train.attack.stages is not a list"},
      {"/train/attack/stages", json::array({1}), "train.attack.stages[0] is not an object"},
      {"/train/attack/stages", json::array({json{{"start_epoch", 1}}}), "train.attack.stages[0].epsilon is missing"},
      {"/train/attack/stages", json::array({Stage(2, 0.1, 0.1, 3), Stage(2, 0.1, 0.1, 3)}),
       "train.attack.stages[1].start_epoch is 2; allowed is 3 to"},
      {"/train/attack/stages", json::array({Stage(2, 0.1, 0.1, 1)}),
       "train.method.mining_step is 2; allowed is 1 to 1"},
      {"/train/optimizer/factors", json::array({0.1}), "train.optimizer.factors has 1 entries for 0 milestones"},
      {"/train/optimizer/factors", json::array({0}), "train.optimizer.factors holds 0"},
      {"/train/optimizer/factors", json::array({"1"}), "train.optimizer.factors holds \"1\""},
      {"/train/optimizer/warmup_share", 1.0, "train.optimizer.warmup_share is 1; allowed is (0, 1)"},
      {"/train/optimizer/gradient_clip_norm", -1, "train.optimizer.gradient_clip_norm is -1"},
      {"/train/class_bias/running_decay", 1.0, "train.class_bias.running_decay is 1; allowed is [0, 1)"},
      {"/train/class_bias/fit_rounds", 101, "train.class_bias.fit_rounds is 101"},
      {"/train/label_smoothing", 1.0, "train.label_smoothing is 1; allowed is [0, 1)"},
      {"/train/precision", "tf32", "train.precision is \"tf32\", which only GPUs have"},
      {"/train/precision", "fp16", "train.precision is \"fp16\"; allowed is one of: fp32, tf32, fp64, bf16"},
      {"/train/batch_norm", "global", "train.batch_norm is \"global\""},
      {"/train/swa_start_epoch", 3, "train.swa_start_epoch is 3; allowed is 0 to 2"},
      {"/train/checkpoint/every_iterations", -1, "train.checkpoint.every_iterations is -1"},
      {"/train/method/mining_step", 4, "train.method.mining_step is 4; allowed is 1 to 3"},
      {"/train/method/minimum_hard", 33, "train.method.minimum_hard is 33; allowed is 1 to 32"},
      {"/train/ema_decay", 1.0, "train.ema_decay is 1; allowed is [0, 1)"},
      {"/train/seed", "-1", "train.seed is \"-1\""},
      {"/train/seed", "1x", "train.seed is \"1x\""},
      {"/train/optimizer/milestones", {3, 3}, "train.optimizer.milestones holds 3"},
      {"/train/optimizer/milestones", "3", "train.optimizer.milestones is not a list"},
      {"/train/evaluation/suites/0/attacks", json::array(), "train.evaluation.suites[0].attacks is empty"},
      {"/train/evaluation/suites/0/attacks/0/loss", "cw", "train.evaluation.suites[0].attacks[0].loss is \"cw\""},
      {"/train/resources/device", "tpu", "train.resources.device is \"tpu\"; allowed is one of: cpu, cuda"},
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

TEST(TrainSpecTest, StagesThatEndBeforeMiningDoNotBoundIt) {
  json spec = ToySpecJson();
  spec["train"]["attack"]["steps"] = 1;
  spec["train"]["attack"]["stages"] = json::array({Stage(2, 0.1, 0.1, 9), Stage(3, 0.1, 0.1, 1)});
  spec["train"]["method"]["mining_step"] = 9;
  spec["train"]["method"]["mining_start_epoch"] = 2;  // the last of two epochs
  const auto parsed = ParseTrainSpec(spec);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  spec["train"]["epochs"] = 3;
  EXPECT_THAT(std::string(ParseTrainSpec(spec).status().message()), HasSubstr("allowed is 1 to 1"));
}

TEST(StageAtTest, ReplacesTheAttackFromItsEpochOn) {
  AttackOptions attack;
  attack.epsilon = 0.1;
  attack.stages = {{2, 0.2, 0.02, 2}, {4, 0.4, 0.04, 4}};
  EXPECT_EQ(StageAt(attack, 1).epsilon, 0.1);
  EXPECT_EQ(StageAt(attack, 1).steps, 10);
  EXPECT_EQ(StageAt(attack, 2).epsilon, 0.2);
  EXPECT_EQ(StageAt(attack, 3).step_size, 0.02);
  EXPECT_EQ(StageAt(attack, 100).steps, 4);
}

TEST(TrainSpecTest, DistancesOfL2MayBeLarger) {
  json spec = ToySpecJson();
  spec["train"]["attack"].update({{"norm", "l2"}, {"epsilon", 2.5}, {"step_size", 1.5}});
  EXPECT_TRUE(ParseTrainSpec(spec).ok());
  spec["train"]["attack"]["epsilon"] = 101;
  EXPECT_THAT(ParseTrainSpec(spec).status().message(), HasSubstr("train.attack.epsilon is 101; allowed is (0, 100]"));
}

TEST(AttackLossNameTest, IsTheNameInSpecs) {
  EXPECT_STREQ(NormName(Norm::kLinf), "linf");
  EXPECT_STREQ(NormName(Norm::kL2), "l2");
  EXPECT_STREQ(AttackLossName(AttackLoss::kCrossEntropy), "cross_entropy");
  EXPECT_STREQ(AttackLossName(AttackLoss::kMargin), "margin");
  EXPECT_STREQ(AttackLossName(AttackLoss::kDlr), "dlr");
}

TEST(TrainSpecTest, WhatIsNoObjectIsRefused) {
  EXPECT_EQ(ParseTrainSpec(json::array()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ParseTrainSpec(json()).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace ham::trainer
