#include "proto/job_spec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "google/protobuf/util/message_differencer.h"

namespace ham {
namespace {

using E = ham::v1::EvaluateSpec;
using T = ham::v1::TrainSpec;

ham::v1::JobSpec Minimal() {
  ham::v1::JobSpec spec;
  spec.mutable_train()->mutable_data()->set_name("fashion-mnist");
  return spec;
}

ham::v1::JobSpec MinimalEvaluation() {
  ham::v1::JobSpec spec;
  spec.mutable_evaluate()->set_weights(std::string(64, 'a'));
  spec.mutable_evaluate()->mutable_data()->set_name("fashion-mnist");
  return spec;
}

// Fails for an optional scalar that is absent.
void ExpectComplete(const google::protobuf::Message& message, const std::string& at) {
  const auto* descriptor = message.GetDescriptor();
  const auto* reflection = message.GetReflection();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const auto* field = descriptor->field(i);
    const std::string path = at + "." + field->name();
    const bool is_message = field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE;
    if (field->is_repeated()) {
      for (int k = 0; is_message && k < reflection->FieldSize(message, field); ++k) {
        ExpectComplete(reflection->GetRepeatedMessage(message, field, k), path);
      }
      continue;
    }
    const bool other_kind = field->real_containing_oneof() != nullptr && !reflection->HasField(message, field);
    EXPECT_TRUE(other_kind || reflection->HasField(message, field)) << path << " was left without a value";
    if (is_message && !other_kind) ExpectComplete(reflection->GetMessage(message, field), path);
  }
}

TEST(ResolveJobSpec, FillsEveryOption) {
  ham::v1::JobSpec spec = Minimal();
  EXPECT_TRUE(ResolveJobSpec(&spec).empty());
  ExpectComplete(spec, "spec");
  EXPECT_EQ(spec.train().attack().epsilon(), 8.0 / 255.0);
  EXPECT_EQ(spec.train().method().name(), "ham");
  EXPECT_EQ(spec.train().evaluation().suites(0).name(), "pgd-20");
}

TEST(ResolveJobSpec, AnEvaluationIsAutoAttackByDefault) {
  ham::v1::JobSpec spec = MinimalEvaluation();
  EXPECT_TRUE(ResolveJobSpec(&spec).empty());
  ExpectComplete(spec, "spec");
  const E& evaluate = spec.evaluate();
  EXPECT_EQ(evaluate.suite().name(), "autoattack");
  EXPECT_EQ(evaluate.suite().norm(), "linf");
  EXPECT_EQ(evaluate.suite().epsilon(), 8.0 / 255.0);
  std::vector<std::string> names;
  for (const auto& attack : evaluate.suite().attacks()) names.push_back(attack.name());
  EXPECT_EQ(names, (std::vector<std::string>{"apgd", "apgd-t", "fab-t", "square"}));
  EXPECT_EQ(evaluate.suite().attacks(1).targets(), 9);
  EXPECT_EQ(evaluate.suite().attacks(3).steps(), 5000);
  EXPECT_EQ(evaluate.model().name(), "cnn-16-32");
  EXPECT_EQ(evaluate.model().normalization(), "none");
  EXPECT_EQ(evaluate.data().rows(), 0);
  EXPECT_EQ(evaluate.precision(), "fp32");
  EXPECT_EQ(evaluate.resources().world_size(), 1);
  EXPECT_EQ(evaluate.retry().max_attempts(), 5);
  EXPECT_EQ(evaluate.job(), "");
}

TEST(ResolveJobSpec, AnEvaluationsEpsilonFollowsItsNorm) {
  ham::v1::JobSpec spec = MinimalEvaluation();
  spec.mutable_evaluate()->mutable_suite()->set_norm("l2");
  spec.mutable_evaluate()->mutable_suite()->add_attacks();
  ASSERT_TRUE(ResolveJobSpec(&spec).empty());
  EXPECT_EQ(spec.evaluate().suite().epsilon(), 0.5);
  ASSERT_EQ(spec.evaluate().suite().attacks_size(), 1);
  EXPECT_EQ(spec.evaluate().suite().attacks(0).step_size(), 0.05);
}

// CreateJob still has them to fill in.
TEST(ResolveJobSpec, OfAJobToEvaluateModelAndDataStayAbsent) {
  ham::v1::JobSpec spec;
  spec.mutable_evaluate()->set_job("projects/default/jobs/j1");
  ASSERT_TRUE(ResolveJobSpec(&spec).empty());
  EXPECT_FALSE(spec.evaluate().model().has_name());
  EXPECT_FALSE(spec.evaluate().data().has_name());
  EXPECT_FALSE(spec.evaluate().data().has_image_size());
  EXPECT_EQ(spec.evaluate().weights(), "");
  EXPECT_EQ(spec.evaluate().precision(), "fp32");
  spec.mutable_evaluate()->set_weights(std::string(64, 'a'));
  spec.mutable_evaluate()->mutable_data()->set_name("imagenette");
  ASSERT_TRUE(ResolveJobSpec(&spec).empty());
  ExpectComplete(spec, "spec");
  EXPECT_EQ(spec.evaluate().data().image_size(), 32);
}

TEST(ResolveJobSpec, OptionsAreOffByDefault) {
  ham::v1::JobSpec spec = Minimal();
  ASSERT_TRUE(ResolveJobSpec(&spec).empty());
  const ham::v1::TrainSpec& train = spec.train();
  EXPECT_EQ(train.data().validation_share(), 0.02);
  EXPECT_EQ(train.model().activation(), "relu");
  EXPECT_EQ(train.method().retained_easy(), "random");
  EXPECT_EQ(train.method().weight_mode(), "none");
  EXPECT_EQ(train.attack().loss(), "cross_entropy");
  EXPECT_EQ(train.attack().start_distribution(), "uniform");
  EXPECT_EQ(train.attack().weights(), "current");
  EXPECT_EQ(train.attack().batch_norm(), "evaluation");
  EXPECT_EQ(train.optimizer().schedule_by(), "iteration");
  EXPECT_EQ(train.optimizer().gamma(), 0.1);
  EXPECT_TRUE(train.optimizer().decay_norm_and_bias());
  EXPECT_EQ(train.ema_decay(), 0.99);
  EXPECT_EQ(train.swa_start_epoch(), 0);
  EXPECT_EQ(train.precision(), "fp32");
  EXPECT_EQ(train.batch_norm(), "synchronized");
  EXPECT_EQ(train.class_bias().running_rate(), 0);
  EXPECT_EQ(train.class_bias().fit_rounds(), 0);
}

TEST(ResolveJobSpec, DataSetsHaveTheirOwnAugmentation) {
  for (const auto& [name, crop, flip, size] :
       std::vector<std::tuple<const char*, int, bool, int>>{{"cifar-10", 4, true, 0},
                                                            {"cifar-100", 4, true, 0},
                                                            {"svhn", 4, true, 0},
                                                            {"imagenette", 4, true, 32},
                                                            {"mnist", 0, false, 0},
                                                            {"fashion-mnist", 0, false, 0},
                                                            {"cifar-11", 0, false, 0}}) {
    ham::v1::JobSpec spec;
    spec.mutable_train()->mutable_data()->set_name(name);
    ASSERT_TRUE(ResolveJobSpec(&spec).empty()) << name;
    const ham::v1::DataSpec& data = spec.train().data();
    EXPECT_EQ(data.image_size(), size) << name;
    EXPECT_EQ(data.augmentation().crop_padding(), crop) << name;
    EXPECT_EQ(data.augmentation().padding(), "zero") << name;
    EXPECT_EQ(data.augmentation().flip(), flip) << name;
    EXPECT_EQ(data.augmentation().cutout(), 0) << name;
  }
}

TEST(ResolveJobSpec, AnAskedForAugmentationStands) {
  ham::v1::JobSpec spec;
  spec.mutable_train()->mutable_data()->set_name("imagenette");
  spec.mutable_train()->mutable_data()->set_image_size(160);
  spec.mutable_train()->mutable_data()->mutable_augmentation()->set_flip(false);
  spec.mutable_train()->mutable_data()->mutable_augmentation()->set_crop_padding(0);
  ASSERT_TRUE(ResolveJobSpec(&spec).empty());
  EXPECT_EQ(spec.train().data().image_size(), 160);
  EXPECT_FALSE(spec.train().data().augmentation().flip());
  EXPECT_EQ(spec.train().data().augmentation().crop_padding(), 0);
}

TEST(ResolveJobSpec, ExtraDataIsHalfOfEachBatchUnlessSaid) {
  ham::v1::JobSpec spec = Minimal();
  ASSERT_TRUE(ResolveJobSpec(&spec).empty());
  EXPECT_EQ(spec.train().data().extra_share(), 0);
  spec = Minimal();
  spec.mutable_train()->mutable_data()->set_extra("1m");
  ASSERT_TRUE(ResolveJobSpec(&spec).empty());
  EXPECT_EQ(spec.train().data().extra_share(), 0.5);
  spec.mutable_train()->mutable_data()->set_extra_share(0.003);
  const auto violations = ResolveJobSpec(&spec);
  ASSERT_EQ(violations.size(), 1);
  EXPECT_EQ(
      violations[0].description,
      "train.data.extra_share is 0.003: 0 of the 128 rows of a batch; allowed is a share that leaves at least one "
      "row of each kind");
}

TEST(ResolveJobSpec, DistancesFollowTheNorm) {
  ham::v1::JobSpec spec = Minimal();
  T* train = spec.mutable_train();
  train->mutable_attack()->set_norm("l2");
  for (const char* norm : {"", "linf"}) {
    auto* suite = train->mutable_evaluation()->add_suites();
    suite->set_name(absl::StrCat("suite-", norm));
    suite->add_attacks();
    if (*norm != 0) suite->set_norm(norm);
  }
  ASSERT_TRUE(ResolveJobSpec(&spec).empty());
  EXPECT_EQ(train->attack().epsilon(), 0.5);
  EXPECT_EQ(train->attack().step_size(), 0.125);
  const auto& suites = train->evaluation().suites();
  EXPECT_EQ(suites[0].norm(), "l2");
  EXPECT_EQ(suites[0].epsilon(), 0.5);
  EXPECT_EQ(suites[1].epsilon(), 8.0 / 255);
  EXPECT_EQ(suites[1].attacks(0).step_size(), 8.0 / 255 / 10);
}

TEST(ResolveJobSpec, WeightAveragesExcludeEachOtherByDefault) {
  ham::v1::JobSpec spec = Minimal();
  spec.mutable_train()->set_swa_start_epoch(12);
  ASSERT_TRUE(ResolveJobSpec(&spec).empty());
  EXPECT_EQ(spec.train().ema_decay(), 0);
}

TEST(ResolveJobSpec, FactorsTakeThePlaceOfGamma) {
  ham::v1::JobSpec spec = Minimal();
  auto* optimizer = spec.mutable_train()->mutable_optimizer();
  optimizer->set_schedule("step");
  optimizer->add_milestones(4);
  optimizer->add_factors(0.5);
  ASSERT_TRUE(ResolveJobSpec(&spec).empty());
  EXPECT_EQ(optimizer->gamma(), 1);
}

TEST(ResolveJobSpec, AStageHasTheAttacksValuesWhereItHasNone) {
  ham::v1::JobSpec spec = Minimal();
  auto* attack = spec.mutable_train()->mutable_attack();
  attack->set_epsilon(0.1);
  attack->add_stages()->set_start_epoch(2);
  attack->add_stages()->set_start_epoch(5);
  attack->mutable_stages(1)->set_epsilon(0.2);
  ASSERT_TRUE(ResolveJobSpec(&spec).empty());
  EXPECT_EQ(attack->stages(0).epsilon(), 0.1);
  EXPECT_EQ(attack->stages(0).steps(), 10);
  EXPECT_EQ(attack->stages(1).epsilon(), 0.2);
  EXPECT_EQ(attack->stages(1).step_size(), 0.025);
}

// Mining goes from epoch 7 to 12; only the stages of these epochs bound its step.
TEST(ResolveJobSpec, TheMiningStepFitsTheStagesInWhichMiningIsOn) {
  const auto smallest = [](std::vector<std::pair<int, int>> stages) {
    ham::v1::JobSpec spec = Minimal();
    for (const auto& [start, steps] : stages) {
      auto* stage = spec.mutable_train()->mutable_attack()->add_stages();
      stage->set_start_epoch(start);
      stage->set_steps(steps);
    }
    spec.mutable_train()->mutable_method()->set_mining_start_epoch(7);
    ham::v1::JobSpec one = spec;
    EXPECT_TRUE(ResolveJobSpec(&one).empty());
    for (int step = 1;; ++step) {
      ham::v1::JobSpec tried = spec;
      tried.mutable_train()->mutable_method()->set_mining_step(step);
      const auto violations = ResolveJobSpec(&tried);
      if (violations.empty()) continue;
      EXPECT_EQ(violations[0].field, "train.method.mining_step");
      EXPECT_EQ(one.train().method().mining_step(), std::min(3, step - 1));
      return step - 1;
    }
  };
  EXPECT_EQ(smallest({}), 10);
  EXPECT_EQ(smallest({{1, 5}}), 5);
  EXPECT_EQ(smallest({{2, 1}, {7, 20}}), 20);
  EXPECT_EQ(smallest({{2, 1}, {8, 20}}), 1);
  EXPECT_EQ(smallest({{8, 2}}), 2);
  EXPECT_EQ(smallest({{8, 20}, {12, 4}}), 4);
  EXPECT_EQ(smallest({{13, 1}}), 10);
}

// Every option has a value that is not its default.
ham::v1::JobSpec OtherValues() {
  ham::v1::JobSpec spec;
  T* train = spec.mutable_train();
  auto* data = train->mutable_data();
  data->set_name("imagenette");
  data->set_validation_share(0.1);
  data->set_image_size(160);
  data->mutable_augmentation()->set_padding("reflect");
  data->mutable_augmentation()->set_cutout(8);
  data->set_extra("1m");
  data->set_extra_share(0.7);
  train->mutable_model()->set_name("wrn-28-10");
  train->mutable_model()->set_activation("silu");
  train->mutable_model()->set_extra_block(true);
  train->mutable_model()->set_normalization("data_set");
  train->mutable_method()->set_retained_easy("high_confidence");
  train->mutable_method()->set_weight_mode("kappa");
  train->mutable_method()->set_drop_share(0.1);
  auto* attack = train->mutable_attack();
  attack->set_loss("dlr");
  attack->set_norm("l2");
  attack->set_start_distribution("normal");
  attack->set_weights("average");
  attack->set_batch_norm("training");
  attack->add_stages()->set_start_epoch(3);
  auto* optimizer = train->mutable_optimizer();
  optimizer->set_name("sgd");
  optimizer->set_nesterov(true);
  optimizer->set_decay_norm_and_bias(false);
  optimizer->set_schedule("step");
  optimizer->set_schedule_by("epoch");
  optimizer->add_milestones(2);
  optimizer->add_factors(2);
  optimizer->set_gradient_clip_norm(1);
  train->set_label_smoothing(0.1);
  train->mutable_class_bias()->set_running_rate(0.01);
  train->mutable_class_bias()->set_fit_rounds(3);
  train->set_precision("fp64");
  train->set_batch_norm("local");
  train->mutable_checkpoint()->set_every_iterations(10);
  train->mutable_checkpoint()->set_keep_every_epochs(5);
  train->set_accumulation_steps(2);
  auto* evaluation = train->mutable_evaluation();
  evaluation->set_reestimate_batch_norm(true);
  evaluation->add_suites()->set_name("a");
  evaluation->mutable_suites(0)->set_norm("linf");
  evaluation->mutable_suites(0)->add_attacks()->set_loss("dlr");
  evaluation->mutable_suites(0)->mutable_attacks(0)->set_judged_at("any");
  return spec;
}

ham::v1::JobSpec OtherEvaluation() {
  ham::v1::JobSpec spec = MinimalEvaluation();
  E* evaluate = spec.mutable_evaluate();
  evaluate->set_job("projects/default/jobs/j1");
  evaluate->mutable_model()->set_name("wrn-28-10");
  evaluate->mutable_model()->set_extra_block(true);
  evaluate->mutable_data()->set_name("imagenette");
  evaluate->mutable_data()->set_rows(200000);
  evaluate->mutable_data()->set_image_size(160);
  evaluate->mutable_suite()->set_name("strong");
  evaluate->mutable_suite()->set_norm("l2");
  evaluate->mutable_suite()->add_attacks()->set_name("apgd-t");
  evaluate->set_precision("tf32");
  evaluate->set_seed(7);
  evaluate->mutable_resources()->set_device("cuda");
  evaluate->mutable_resources()->set_world_size(4096);
  evaluate->mutable_retry()->set_max_attempts(1);
  return spec;
}

TEST(ResolveJobSpec, AResolvedSpecResolvesToItself) {
  std::vector<ham::v1::JobSpec> specs = {Minimal(),     Minimal(),           Minimal(),
                                         OtherValues(), MinimalEvaluation(), OtherEvaluation()};
  specs[1].mutable_train()->mutable_method()->set_name("pgd-at");
  specs[1].mutable_train()->mutable_data()->mutable_augmentation()->set_cutmix(0.5);
  specs[2].mutable_train()->set_swa_start_epoch(3);
  specs[2].mutable_train()->mutable_method()->set_balance_ranks(true);
  for (ham::v1::JobSpec& once : specs) {
    const auto violations = ResolveJobSpec(&once);
    ASSERT_TRUE(violations.empty()) << violations[0].description;
    ExpectComplete(once, "spec");
    ham::v1::JobSpec twice = once;
    EXPECT_TRUE(ResolveJobSpec(&twice).empty()) << once.DebugString();
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(once, twice)) << once.DebugString();
  }
}

TEST(ResolveJobSpec, RefusesAnEmptySpec) {
  ham::v1::JobSpec spec;
  const auto violations = ResolveJobSpec(&spec);
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_EQ(violations[0].field, "train");
  EXPECT_EQ(violations[0].description, "a job spec needs a section train or evaluate");
}

template <typename Spec>
struct CaseOf {
  std::string field;
  std::function<void(Spec*)> change;
};
using Case = CaseOf<T>;
using EvaluateCase = CaseOf<E>;

template <typename Spec>
void PrintTo(const CaseOf<Spec>& tested, std::ostream* out) {
  *out << tested.field;
}

class OutOfRange : public testing::TestWithParam<Case> {};

TEST_P(OutOfRange, IsNamedWithItsFieldAndAllowedRange) {
  ham::v1::JobSpec spec = Minimal();
  GetParam().change(spec.mutable_train());
  const auto violations = ResolveJobSpec(&spec);
  ASSERT_FALSE(violations.empty());
  EXPECT_EQ(violations[0].field, GetParam().field);
  EXPECT_NE(violations[0].description.find(GetParam().field), std::string::npos);
}

const double kNan = std::numeric_limits<double>::quiet_NaN();

ham::v1::AttackStage* FirstStage(T* train) {
  auto* stage = train->mutable_attack()->add_stages();
  stage->set_start_epoch(1);
  return stage;
}

ham::v1::MethodSpec* PgdAt(T* train) {
  train->mutable_method()->set_name("pgd-at");
  return train->mutable_method();
}

ham::v1::OptimizerSpec* StepSchedule(T* train) {
  train->mutable_optimizer()->set_schedule("step");
  train->mutable_optimizer()->add_milestones(6);
  return train->mutable_optimizer();
}

std::vector<Case> Cases() {
  return {
      Case{"train.data.name", [](T* t) { t->mutable_data()->clear_name(); }},
      Case{"train.data.name", [](T* t) { t->mutable_data()->set_name("../etc/passwd"); }},
      Case{"train.data.train_rows", [](T* t) { t->mutable_data()->set_train_rows(-1); }},
      Case{"train.data.test_rows", [](T* t) { t->mutable_data()->set_test_rows(-1); }},
      Case{"train.model.name", [](T* t) { t->mutable_model()->set_name("resnet"); }},
      Case{"train.data.validation_share", [](T* t) { t->mutable_data()->set_validation_share(0.6); }},
      Case{"train.data.validation_share", [](T* t) { t->mutable_data()->set_validation_share(-0.1); }},
      Case{"train.data.validation_share", [](T* t) { t->mutable_data()->set_validation_share(kNan); }},
      Case{"train.data.image_size", [](T* t) { t->mutable_data()->set_image_size(32); }},
      Case{"train.data.image_size",
           [](T* t) {
             t->mutable_data()->set_name("imagenette");
             t->mutable_data()->set_image_size(64);
           }},
      Case{"train.data.image_size",
           [](T* t) {
             t->mutable_data()->set_name("imagenette");
             t->mutable_data()->set_image_size(0);
           }},
      Case{"train.data.augmentation.crop_padding",
           [](T* t) { t->mutable_data()->mutable_augmentation()->set_crop_padding(17); }},
      Case{"train.data.augmentation.crop_padding",
           [](T* t) { t->mutable_data()->mutable_augmentation()->set_crop_padding(-1); }},
      Case{"train.data.augmentation.padding",
           [](T* t) { t->mutable_data()->mutable_augmentation()->set_padding("wrap"); }},
      Case{"train.data.extra", [](T* t) { t->mutable_data()->set_extra("../../1m"); }},
      Case{"train.data.extra_share", [](T* t) { t->mutable_data()->set_extra_share(0.5); }},
      Case{"train.data.extra_share",
           [](T* t) {
             t->mutable_data()->set_extra("1m");
             t->mutable_data()->set_extra_share(1);
           }},
      Case{"train.data.extra_share",  // no row of 128
           [](T* t) {
             t->mutable_data()->set_extra("1m");
             t->mutable_data()->set_extra_share(0.003);
           }},
      Case{"train.data.extra_share",  // all 128 rows
           [](T* t) {
             t->mutable_data()->set_extra("1m");
             t->mutable_data()->set_extra_share(0.997);
           }},
      Case{"train.data.augmentation.cutout", [](T* t) { t->mutable_data()->mutable_augmentation()->set_cutout(257); }},
      Case{"train.data.augmentation.cutmix", [](T* t) { t->mutable_data()->mutable_augmentation()->set_cutmix(1.01); }},
      Case{"train.data.augmentation.cutmix",
           [](T* t) {
             t->mutable_data()->mutable_augmentation()->set_cutmix(0.5);
             t->mutable_attack()->set_loss("margin");
           }},
      Case{"train.data.augmentation.cutmix",
           [](T* t) {
             t->mutable_data()->mutable_augmentation()->set_cutmix(0.5);
             t->mutable_method()->set_weight_mode("kappa");
           }},
      Case{"train.method.balance_ranks",
           [](T* t) {
             t->set_batch_norm("local");
             t->mutable_method()->set_balance_ranks(true);
           }},
      Case{"train.method.balance_ranks",
           [](T* t) {
             t->mutable_method()->set_name("pgd-at");
             t->mutable_method()->set_balance_ranks(true);
           }},
      Case{"train.model.normalization", [](T* t) { t->mutable_model()->set_normalization("imagenet"); }},
      Case{"train.attack.norm", [](T* t) { t->mutable_attack()->set_norm("l1"); }},
      Case{"train.attack.epsilon",
           [](T* t) {
             t->mutable_attack()->set_norm("l2");
             t->mutable_attack()->set_epsilon(101);
             t->mutable_attack()->set_step_size(1);
           }},
      Case{"train.accumulation_steps", [](T* t) { t->set_accumulation_steps(0); }},
      Case{"train.accumulation_steps", [](T* t) { t->set_accumulation_steps(129); }},
      Case{"train.accumulation_steps",
           [](T* t) {
             t->mutable_resources()->set_world_size(4);
             t->set_accumulation_steps(33);
           }},
      Case{"train.model.activation", [](T* t) { t->mutable_model()->set_activation("gelu"); }},
      Case{"train.model.extra_block", [](T* t) { t->mutable_model()->set_extra_block(true); }},
      Case{"train.label_smoothing", [](T* t) { t->set_label_smoothing(1); }},
      Case{"train.label_smoothing", [](T* t) { t->set_label_smoothing(kNan); }},
      Case{"train.precision", [](T* t) { t->set_precision("tf32"); }},
      Case{"train.batch_norm", [](T* t) { t->set_batch_norm("global"); }},
      Case{"train.swa_start_epoch", [](T* t) { t->set_swa_start_epoch(-1); }},
      Case{"train.swa_start_epoch", [](T* t) { t->set_swa_start_epoch(13); }},
      Case{"train.swa_start_epoch",
           [](T* t) {
             t->set_swa_start_epoch(5);
             t->set_ema_decay(0.9);
           }},
      Case{"train.class_bias.running_rate", [](T* t) { t->mutable_class_bias()->set_running_rate(1.5); }},
      Case{"train.class_bias.running_decay", [](T* t) { t->mutable_class_bias()->set_running_decay(1); }},
      Case{"train.class_bias.fit_rounds", [](T* t) { t->mutable_class_bias()->set_fit_rounds(101); }},
      Case{"train.class_bias.fit_rounds",
           [](T* t) {
             t->mutable_class_bias()->set_fit_rounds(3);
             t->mutable_data()->set_validation_share(0);
           }},
      Case{"train.class_bias.fit_step", [](T* t) { t->mutable_class_bias()->set_fit_step(0); }},
      Case{"train.checkpoint.every_iterations", [](T* t) { t->mutable_checkpoint()->set_every_iterations(-1); }},
      Case{"train.checkpoint.keep_every_epochs", [](T* t) { t->mutable_checkpoint()->set_keep_every_epochs(-1); }},
      Case{"train.attack.loss", [](T* t) { t->mutable_attack()->set_loss("cw"); }},
      Case{"train.attack.start_distribution", [](T* t) { t->mutable_attack()->set_start_distribution("zero"); }},
      Case{"train.attack.start_distribution",
           [](T* t) {
             t->mutable_attack()->set_start_distribution("normal");
             t->mutable_attack()->set_random_start(false);
           }},
      Case{"train.attack.weights", [](T* t) { t->mutable_attack()->set_weights("best"); }},
      Case{"train.attack.weights",
           [](T* t) {
             t->mutable_attack()->set_weights("average");
             t->set_ema_decay(0);
           }},
      Case{"train.attack.weights",
           [](T* t) {
             t->mutable_attack()->set_weights("average");
             t->set_swa_start_epoch(2);
           }},
      Case{"train.attack.batch_norm", [](T* t) { t->mutable_attack()->set_batch_norm("frozen"); }},
      Case{"train.attack.stages[0].start_epoch", [](T* t) { t->mutable_attack()->add_stages(); }},
      Case{"train.attack.stages[0].start_epoch", [](T* t) { t->mutable_attack()->add_stages()->set_start_epoch(0); }},
      Case{"train.attack.stages[1].start_epoch",
           [](T* t) {
             t->mutable_attack()->add_stages()->set_start_epoch(4);
             t->mutable_attack()->add_stages()->set_start_epoch(4);
           }},
      Case{"train.attack.stages[0].epsilon", [](T* t) { FirstStage(t)->set_epsilon(1.5); }},
      Case{"train.attack.stages[0].step_size", [](T* t) { FirstStage(t)->set_step_size(0); }},
      Case{"train.attack.stages[0].steps", [](T* t) { FirstStage(t)->set_steps(1001); }},
      Case{"train.attack.stages (count)",
           [](T* t) {
             for (int i = 1; i <= 101; ++i) t->mutable_attack()->add_stages()->set_start_epoch(i);
           }},
      Case{"train.method.mining_step",
           [](T* t) {
             FirstStage(t)->set_steps(2);
             t->mutable_method()->set_mining_step(3);
           }},
      Case{"train.method.retained_easy", [](T* t) { t->mutable_method()->set_retained_easy("low"); }},
      Case{"train.method.weight_mode", [](T* t) { t->mutable_method()->set_weight_mode("margin"); }},
      Case{"train.method.drop_share", [](T* t) { t->mutable_method()->set_drop_share(1); }},
      Case{"train.method.retained_easy", [](T* t) { PgdAt(t)->set_retained_easy("high_confidence"); }},
      Case{"train.method.weight_mode", [](T* t) { PgdAt(t)->set_weight_mode("kappa"); }},
      Case{"train.method.drop_share", [](T* t) { PgdAt(t)->set_drop_share(0.1); }},
      Case{"train.optimizer.nesterov", [](T* t) { t->mutable_optimizer()->set_nesterov(true); }},
      Case{"train.optimizer.nesterov",
           [](T* t) {
             t->mutable_optimizer()->set_name("sgd");
             t->mutable_optimizer()->set_momentum(0);
             t->mutable_optimizer()->set_nesterov(true);
           }},
      Case{"train.optimizer.warmup_share", [](T* t) { t->mutable_optimizer()->set_warmup_share(0); }},
      Case{"train.optimizer.warmup_share", [](T* t) { t->mutable_optimizer()->set_warmup_share(1); }},
      Case{"train.optimizer.schedule_by", [](T* t) { t->mutable_optimizer()->set_schedule_by("batch"); }},
      Case{"train.optimizer.factors", [](T* t) { t->mutable_optimizer()->add_factors(0.1); }},
      Case{"train.optimizer.factors",
           [](T* t) {
             StepSchedule(t)->add_factors(0.1);
             t->mutable_optimizer()->add_factors(0.1);
           }},
      Case{"train.optimizer.factors[0]", [](T* t) { StepSchedule(t)->add_factors(0); }},
      Case{"train.optimizer.factors[0]", [](T* t) { StepSchedule(t)->add_factors(kNan); }},
      Case{"train.optimizer.gamma",
           [](T* t) {
             StepSchedule(t)->add_factors(0.1);
             t->mutable_optimizer()->set_gamma(0.1);
           }},
      Case{"train.optimizer.gradient_clip_norm", [](T* t) { t->mutable_optimizer()->set_gradient_clip_norm(-1); }},
      Case{"train.optimizer.gradient_clip_norm", [](T* t) { t->mutable_optimizer()->set_gradient_clip_norm(2e6); }},
      Case{"train.method.name", [](T* t) { t->mutable_method()->set_name("fat"); }},
      Case{"train.method.mining_step", [](T* t) { t->mutable_method()->set_mining_step(0); }},
      Case{"train.method.mining_step", [](T* t) { t->mutable_method()->set_mining_step(11); }},
      Case{"train.method.mining_step", [](T* t) { PgdAt(t)->set_mining_step(3); }},
      Case{"train.method.mining_start_epoch", [](T* t) { t->mutable_method()->set_mining_start_epoch(0); }},
      Case{"train.method.retained_easy_share", [](T* t) { t->mutable_method()->set_retained_easy_share(1.5); }},
      Case{"train.method.minimum_hard", [](T* t) { t->mutable_method()->set_minimum_hard(129); }},
      Case{"train.attack.epsilon", [](T* t) { t->mutable_attack()->set_epsilon(0); }},
      Case{"train.attack.epsilon", [](T* t) { t->mutable_attack()->set_epsilon(-0.1); }},
      Case{"train.attack.epsilon", [](T* t) { t->mutable_attack()->set_epsilon(8); }},
      Case{"train.attack.epsilon", [](T* t) { t->mutable_attack()->set_epsilon(kNan); }},
      Case{"train.attack.step_size", [](T* t) { t->mutable_attack()->set_step_size(kNan); }},
      Case{"train.attack.steps", [](T* t) { t->mutable_attack()->set_steps(0); }},
      Case{"train.attack.steps", [](T* t) { t->mutable_attack()->set_steps(1001); }},
      Case{"train.optimizer.name", [](T* t) { t->mutable_optimizer()->set_name("lion"); }},
      Case{"train.optimizer.learning_rate", [](T* t) { t->mutable_optimizer()->set_learning_rate(0); }},
      Case{"train.optimizer.momentum", [](T* t) { t->mutable_optimizer()->set_momentum(1); }},
      Case{"train.optimizer.weight_decay", [](T* t) { t->mutable_optimizer()->set_weight_decay(-1); }},
      Case{"train.optimizer.schedule", [](T* t) { t->mutable_optimizer()->set_schedule("linear"); }},
      Case{"train.optimizer.milestones", [](T* t) { t->mutable_optimizer()->set_schedule("step"); }},
      Case{"train.optimizer.milestones", [](T* t) { t->mutable_optimizer()->add_milestones(3); }},
      Case{"train.optimizer.milestones[1]",
           [](T* t) {
             t->mutable_optimizer()->set_schedule("step");
             t->mutable_optimizer()->add_milestones(5);
             t->mutable_optimizer()->add_milestones(5);
           }},
      Case{"train.epochs", [](T* t) { t->set_epochs(0); }},
      Case{"train.batch_size", [](T* t) { t->set_batch_size(70000); }},
      Case{"train.ema_decay", [](T* t) { t->set_ema_decay(1); }},
      Case{"train.evaluation.every_epochs", [](T* t) { t->mutable_evaluation()->set_every_epochs(-1); }},
      Case{"train.evaluation.suites[0].name", [](T* t) { t->mutable_evaluation()->add_suites()->add_attacks(); }},
      Case{"train.evaluation.suites[0].attacks (count)",
           [](T* t) { t->mutable_evaluation()->add_suites()->set_name("a"); }},
      Case{"train.evaluation.final_suites[0].name",
           [](T* t) {
             for (auto* suite : {t->mutable_evaluation()->add_suites(), t->mutable_evaluation()->add_final_suites()}) {
               suite->set_name("same");
               suite->add_attacks();
             }
           }},
      Case{"train.evaluation.suites[0].attacks[0].loss",
           [](T* t) {
             auto* suite = t->mutable_evaluation()->add_suites();
             suite->set_name("a");
             suite->add_attacks()->set_loss("cw");
           }},
      Case{"train.resources.world_size", [](T* t) { t->mutable_resources()->set_world_size(0); }},
      Case{"train.resources.world_size",
           [](T* t) {
             t->set_batch_size(2);
             t->mutable_resources()->set_world_size(3);
           }},
      Case{"train.resources.device", [](T* t) { t->mutable_resources()->set_device("tpu"); }},
      Case{"train.retry.max_attempts", [](T* t) { t->mutable_retry()->set_max_attempts(0); }}};
}

INSTANTIATE_TEST_SUITE_P(Fields, OutOfRange, testing::ValuesIn(Cases()));

class EvaluateOutOfRange : public testing::TestWithParam<EvaluateCase> {};

TEST_P(EvaluateOutOfRange, IsNamedWithItsFieldAndAllowedRange) {
  ham::v1::JobSpec spec = MinimalEvaluation();
  GetParam().change(spec.mutable_evaluate());
  const auto violations = ResolveJobSpec(&spec);
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_EQ(violations[0].field, GetParam().field);
  EXPECT_NE(violations[0].description.find(GetParam().field), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(
    Fields, EvaluateOutOfRange,
    testing::Values(
        EvaluateCase{"evaluate.model.name", [](E* e) { e->mutable_model()->set_name("resnet"); }},
        EvaluateCase{"evaluate.model.activation", [](E* e) { e->mutable_model()->set_activation("gelu"); }},
        EvaluateCase{"evaluate.model.extra_block", [](E* e) { e->mutable_model()->set_extra_block(true); }},
        EvaluateCase{"evaluate.model.normalization", [](E* e) { e->mutable_model()->set_normalization("data_set"); }},
        EvaluateCase{"evaluate.model.normalization",
                     [](E* e) {
                       e->clear_weights();
                       e->set_job("projects/default/jobs/j1");
                       e->mutable_model()->set_normalization("data_set");
                     }},
        EvaluateCase{"evaluate.weights", [](E* e) { e->clear_weights(); }},
        EvaluateCase{"evaluate.weights", [](E* e) { e->set_weights(std::string(64, 'A')); }},
        EvaluateCase{"evaluate.weights", [](E* e) { e->set_weights(std::string(63, 'a')); }},
        EvaluateCase{"evaluate.weights", [](E* e) { e->set_weights("model.safetensors"); }},
        EvaluateCase{"evaluate.job", [](E* e) { e->set_job("j1"); }},
        EvaluateCase{"evaluate.job", [](E* e) { e->set_job("projects/default/jobs/"); }},
        EvaluateCase{"evaluate.job", [](E* e) { e->set_job("projects/default/jobs/../x"); }},
        EvaluateCase{"evaluate.data.name", [](E* e) { e->mutable_data()->clear_name(); }},
        EvaluateCase{"evaluate.data.name", [](E* e) { e->mutable_data()->set_name("../etc/passwd"); }},
        EvaluateCase{"evaluate.data.name",
                     [](E* e) {
                       e->clear_weights();
                       e->set_job("projects/default/jobs/j1");
                       e->mutable_data()->set_name("a b");
                     }},
        EvaluateCase{"evaluate.data.rows", [](E* e) { e->mutable_data()->set_rows(-1); }},
        EvaluateCase{"evaluate.data.rows", [](E* e) { e->mutable_data()->set_rows(200001); }},
        EvaluateCase{"evaluate.data.image_size", [](E* e) { e->mutable_data()->set_image_size(32); }},
        EvaluateCase{"evaluate.suite.name", [](E* e) { e->mutable_suite()->set_name("a/b"); }},
        EvaluateCase{"evaluate.suite.norm", [](E* e) { e->mutable_suite()->set_norm("l1"); }},
        EvaluateCase{"evaluate.suite.epsilon", [](E* e) { e->mutable_suite()->set_epsilon(8); }},
        EvaluateCase{"evaluate.suite.attacks[0].name",
                     [](E* e) { e->mutable_suite()->add_attacks()->set_name("fab"); }},
        EvaluateCase{"evaluate.suite.attacks (count)",
                     [](E* e) {
                       for (int i = 0; i < 17; ++i) e->mutable_suite()->add_attacks();
                     }},
        EvaluateCase{"evaluate.precision", [](E* e) { e->set_precision("fp16"); }},
        EvaluateCase{"evaluate.precision", [](E* e) { e->set_precision("tf32"); }},
        EvaluateCase{"evaluate.resources.world_size", [](E* e) { e->mutable_resources()->set_world_size(0); }},
        EvaluateCase{"evaluate.resources.world_size", [](E* e) { e->mutable_resources()->set_world_size(4097); }},
        EvaluateCase{"evaluate.resources.device", [](E* e) { e->mutable_resources()->set_device("tpu"); }},
        EvaluateCase{"evaluate.resources.threads_per_rank",
                     [](E* e) { e->mutable_resources()->set_threads_per_rank(0); }},
        EvaluateCase{"evaluate.retry.max_attempts", [](E* e) { e->mutable_retry()->set_max_attempts(0); }}));

TEST(FindUnknownFields, NamesThemAtAnyDepth) {
  ham::v1::JobSpec spec = Minimal();
  EXPECT_TRUE(FindUnknownFields(spec).empty());
  auto* attack = spec.mutable_train()->mutable_attack();
  attack->GetReflection()->MutableUnknownFields(attack)->AddVarint(99, 1);
  auto* suite = spec.mutable_train()->mutable_evaluation()->add_suites();
  suite->GetReflection()->MutableUnknownFields(suite)->AddVarint(77, 1);
  EXPECT_EQ(FindUnknownFields(spec), (std::vector<std::string>{"train.attack.#99", "train.evaluation.suites[0].#77"}));
}

TEST(MessageToJson, PrintsZeroes) {
  ham::v1::JobSpec spec = Minimal();
  ASSERT_TRUE(ResolveJobSpec(&spec).empty());
  const std::string json = MessageToJson(spec);
  EXPECT_NE(json.find("\"seed\":\"0\""), std::string::npos) << json;
  EXPECT_NE(json.find("\"retained_easy_share\":0"), std::string::npos) << json;
}

}  // namespace
}  // namespace ham
