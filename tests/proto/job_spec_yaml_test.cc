#include <gtest/gtest.h>

#include <array>
#include <random>
#include <vector>

#include "proto/job_spec.h"
#include "tests/support/seed.h"

namespace ham {
namespace {

constexpr char kGood[] = R"(
train:
  data: {name: fashion-mnist, train_rows: 10000}
  method: {name: ham, mining_step: 2}
  attack: {epsilon: 8/255, step_size: 0.03, steps: 5, random_start: false}
  seed: 18446744073709551615
  optimizer: {schedule: step, milestones: [3, 5], factors: [1/4, 0.01]}
  evaluation:
    suites:
      - name: pgd-20
        attacks: [{steps: 20}, {loss: margin}]
)";

TEST(ParseJobSpecYaml, ReadsEveryKindOfField) {
  const auto spec = ParseJobSpecYaml(kGood);
  ASSERT_TRUE(spec.ok()) << spec.status();
  const auto& train = spec->train();
  EXPECT_EQ(train.data().name(), "fashion-mnist");
  EXPECT_EQ(train.attack().epsilon(), 8.0 / 255.0);
  EXPECT_FALSE(train.attack().random_start());
  EXPECT_EQ(train.seed(), 18446744073709551615u);
  EXPECT_EQ(train.optimizer().milestones(1), 5);
  ASSERT_EQ(train.optimizer().factors_size(), 2);
  EXPECT_EQ(train.optimizer().factors(0), 0.25);
  EXPECT_EQ(train.optimizer().factors(1), 0.01);
  EXPECT_EQ(train.evaluation().suites(0).attacks(1).loss(), "margin");
  EXPECT_FALSE(train.has_epochs());
}

TEST(ParseJobSpecYaml, ReadsAnEvaluation) {
  const auto spec = ParseJobSpecYaml(R"(
evaluate:
  data: {name: fashion-mnist, rows: 100}
  suite: {epsilon: 8/255, attacks: [{name: apgd}]}
)");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->evaluate().suite().epsilon(), 8.0 / 255.0);
  EXPECT_EQ(spec->evaluate().suite().attacks(0).name(), "apgd");
  EXPECT_EQ(spec->evaluate().data().rows(), 100);
  EXPECT_FALSE(spec->evaluate().has_weights());
}

TEST(SetJobSpecField, ReplacesOneFieldASectionOrAList) {
  auto spec = ParseJobSpecYaml(kGood);
  ASSERT_TRUE(spec.ok()) << spec.status();
  ASSERT_TRUE(SetJobSpecField("train.attack.epsilon", "4/255", &*spec).ok());
  ASSERT_TRUE(SetJobSpecField("train.optimizer.milestones", "[7]", &*spec).ok());
  ASSERT_TRUE(SetJobSpecField("train.method", "{name: pgd-at}", &*spec).ok());
  ASSERT_TRUE(SetJobSpecField("train.resources.world_size", "2", &*spec).ok());
  EXPECT_EQ(spec->train().attack().epsilon(), 4.0 / 255.0);
  EXPECT_EQ(spec->train().attack().steps(), 5);
  ASSERT_EQ(spec->train().optimizer().milestones_size(), 1);
  EXPECT_EQ(spec->train().optimizer().milestones(0), 7);
  EXPECT_EQ(spec->train().method().name(), "pgd-at");
  EXPECT_FALSE(spec->train().method().has_mining_step());
  EXPECT_EQ(spec->train().resources().world_size(), 2);
}

TEST(SetJobSpecField, NamesWhatIsWrong) {
  const std::vector<std::array<const char*, 3>> cases = {
      {"train.seeed", "1", "did you mean train.seed?"},
      {"", "1", "did you mean train?"},
      {"train.seed.", "1", "train.seed has no keys below it"},
      {"train.evaluation.suites.name", "a", "set train.evaluation.suites as a whole"},
      {"train.seed", "", "the value of train.seed holds 0 YAML documents"},
      {"train.seed", "[", "the value of train.seed is not valid YAML"},
      {"train.epochs", "many", "train.epochs is \"many\""},
      {"train.seed", "1", "train stands beside evaluate; a job has one of them"},
  };
  for (const auto& [path, value, expected] : cases) {
    ham::v1::JobSpec spec;
    if (std::string(expected).find("beside") != std::string::npos) spec.mutable_evaluate();
    const absl::Status status = SetJobSpecField(path, value, &spec);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << path;
    EXPECT_NE(std::string(status.message()).find(expected), std::string::npos) << status;
  }
}

struct Case {
  const char* yaml;
  const char* expected;  // part of the sentence
};

class BadYaml : public ::testing::TestWithParam<Case> {};

TEST_P(BadYaml, IsExplainedInOneSentence) {
  const auto spec = ParseJobSpecYaml(GetParam().yaml);
  ASSERT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument) << GetParam().yaml;
  const std::string message(spec.status().message());
  EXPECT_NE(message.find(GetParam().expected), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

INSTANTIATE_TEST_SUITE_P(
    Cases, BadYaml,
    ::testing::Values(
        Case{"train: {attack: {epsilonn: 1}}", "did you mean train.attack.epsilon?"},
        Case{"train: {}\nevaluate: {}", "evaluate stands beside train; a job has one of them"},
        Case{"trian: {}", "did you mean train?"}, Case{"train: {epochs: many}", "train.epochs is \"many\""},
        Case{"train: {epochs: 1.5}", "a whole number"}, Case{"train: {epochs: 99999999999}", "below 2^31"},
        Case{"train: {seed: -1}", "train.seed is \"-1\""},
        Case{"train: {attack: {epsilon: 8/0}}", "train.attack.epsilon is \"8/0\""},
        Case{"train: {attack: {epsilon: nan}}", "a number or a fraction"},
        Case{"train: {attack: {epsilon: inf}}", "a number or a fraction"},
        Case{"train: {attack: {epsilon: [1]}}", "a single value"},
        Case{"train: {attack: {random_start: yes}}", "true or false"},
        Case{"train: {attack: 3}", "train.attack is not a section"},
        Case{"train: {optimizer: {milestones: 3}}", "is not a list"},
        Case{"train: {optimizer: {factors: [1, ten]}}", "train.optimizer.factors[1]"},
        Case{"train: {attack: {stages: [{start_epok: 3}]}}", "did you mean train.attack.stages[0].start_epoch?"},
        Case{"train: {epochs: 1, epochs: 2}", "stands twice"}, Case{"train: {epochs: 1", "not valid YAML"},
        Case{"", "exactly one"}, Case{"[1, 2]", "the spec is not a section"}, Case{"train: {epochs: }", "single value"},
        Case{"a: 1\n---\nb: 2", "2 YAML documents"}, Case{"train: &x {data: *x}", ""}));

TEST(ParseJobSpecYaml, RefusesHugeText) {
  EXPECT_EQ(ParseJobSpecYaml(std::string(2 << 20, ' ')).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ParseJobSpecYaml, EndsOnTextThatNoDocumentCanBeginWith) {
  for (const char* text : {",", "\n,train: {}", "]", "}", "train: {}\n]", "%", "*", "..."}) {
    const auto spec = ParseJobSpecYaml(text);
    EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

// Each of 10,000 suites with the 10,000 attacks of the first would be 100 million of them.
TEST(ParseJobSpecYaml, RefusesAliasesThatGrowWithoutEnd) {
  std::string text = "train: {evaluation: {suites: [&s {name: a, attacks: [&a {steps: 1}";
  for (int i = 0; i < 9999; ++i) text += ", *a";
  text += "]}";
  for (int i = 0; i < 9999; ++i) text += ", *s";
  const auto spec = ParseJobSpecYaml(text + "]}}");
  ASSERT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(spec.status().message().find("aliases"), std::string::npos) << spec.status();
  EXPECT_TRUE(ParseJobSpecYaml("train: {evaluation: {suites: [{name: a, attacks: [&a {steps: 1}, *a]}]}}").ok());
}

TEST(ParseJobSpecYaml, GivesTextInUtf8OrNone) {
  for (const char* name : {"\x90\x98", "\"\\uD800\"", "\"\\xE9\"", "\xC3\xA9"}) {
    const auto spec = ParseJobSpecYaml(std::string("train: {method: {name: ") + name + "}}");
    if (spec.ok()) {
      EXPECT_TRUE(ham::v1::JobSpec().ParseFromString(spec->SerializeAsString())) << name;
    } else {
      EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument);
    }
  }
}

TEST(ParseJobSpecYaml, SurvivesDamagedText) {
  std::mt19937_64 random(testing::TestSeed());
  const std::string good = kGood;
  for (int round = 0; round < 2000; ++round) {
    std::string text = good;
    for (unsigned k = 0; k <= random() % 4; ++k) text[random() % text.size()] = static_cast<char>(random());
    text.resize(random() % (text.size() + 1));
    const auto spec = ParseJobSpecYaml(text);
    if (!spec.ok()) {
      EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument);
    }
  }
}

}  // namespace
}  // namespace ham
