#include "proto/job_spec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "google/protobuf/util/message_differencer.h"

namespace ham {
namespace {

ham::v1::JobSpec Minimal() {
  ham::v1::JobSpec spec;
  spec.mutable_train()->mutable_data()->set_name("fashion-mnist");
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
    EXPECT_TRUE(reflection->HasField(message, field)) << path << " was left without a value";
    if (is_message) ExpectComplete(reflection->GetMessage(message, field), path);
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

TEST(ResolveJobSpec, IsIdempotentForBothMethods) {
  for (const char* method : {"ham", "pgd-at"}) {
    ham::v1::JobSpec once = Minimal();
    once.mutable_train()->mutable_method()->set_name(method);
    ASSERT_TRUE(ResolveJobSpec(&once).empty()) << method;
    ham::v1::JobSpec twice = once;
    EXPECT_TRUE(ResolveJobSpec(&twice).empty()) << method;
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(once, twice)) << method;
  }
}

TEST(ResolveJobSpec, RefusesAnEmptySpec) {
  ham::v1::JobSpec spec;
  const auto violations = ResolveJobSpec(&spec);
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_EQ(violations[0].field, "train");
}

struct Case {
  std::string field;
  std::function<void(ham::v1::TrainSpec*)> change;
};

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
using T = ham::v1::TrainSpec;

std::vector<Case> Cases() {
  return {
      Case{"train.data.name", [](T* t) { t->mutable_data()->clear_name(); }},
      Case{"train.data.name", [](T* t) { t->mutable_data()->set_name("../etc/passwd"); }},
      Case{"train.data.train_rows", [](T* t) { t->mutable_data()->set_train_rows(-1); }},
      Case{"train.data.test_rows", [](T* t) { t->mutable_data()->set_test_rows(-1); }},
      Case{"train.model.name", [](T* t) { t->mutable_model()->set_name("resnet"); }},
      Case{"train.method.name", [](T* t) { t->mutable_method()->set_name("fat"); }},
      Case{"train.method.mining_step", [](T* t) { t->mutable_method()->set_mining_step(0); }},
      Case{"train.method.mining_step", [](T* t) { t->mutable_method()->set_mining_step(11); }},
      Case{"train.method.mining_step",
           [](T* t) {
             t->mutable_method()->set_name("pgd-at");
             t->mutable_method()->set_mining_step(3);
           }},
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
      Case{"train.resources.device", [](T* t) { t->mutable_resources()->set_device("cuda"); }},
      Case{"train.retry.max_attempts", [](T* t) { t->mutable_retry()->set_max_attempts(0); }}};
}

INSTANTIATE_TEST_SUITE_P(Fields, OutOfRange, testing::ValuesIn(Cases()));

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
