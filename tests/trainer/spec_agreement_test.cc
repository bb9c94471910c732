// The coordinator and the trainer hold specs by the same rules: what one takes, the other takes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cctype>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/job_spec.h"
#include "proto/strict_json.h"
#include "worker/trainer/data/known_data_sets.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {
namespace {

// The resolved spec as the trainer gets it, also of a spec that is refused.
nlohmann::json JsonOf(const ham::v1::JobSpec& resolved) {
  const auto json = ParseStrictJson(MessageToJson(resolved));
  EXPECT_TRUE(json.ok()) << json.status();
  return json.value_or(nlohmann::json());
}

struct Range {
  const char* path;
  std::vector<const char*> taken, refused;  // YAML
};

constexpr char kDigest[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

std::vector<Range> Ranges() {
  return {
      Range{"train.data.train_rows", {"0", "2147483647"}, {"-1"}},
      Range{"train.data.test_rows", {"0", "2147483647"}, {"-1"}},
      Range{"train.data.validation_share", {"0", "0.5"}, {"-0.01", "0.51"}},
      Range{"train.data.image_size", {"0"}, {"-1", "161"}},
      Range{"train.data.augmentation.crop_padding", {"0", "16"}, {"-1", "17"}},
      Range{"train.data.augmentation.padding", {"zero", "reflect"}, {"wrap"}},
      Range{"train.data.augmentation.flip", {"true", "false"}, {}},
      Range{"train.data.augmentation.cutout", {"0", "256"}, {"-1", "257"}},
      Range{"train.data.extra", {"1m.v2_A-b"}, {".a", "../a", "a b", "a2345678901234567890123456789012345678901"}},
      Range{"train.data",
            {"{name: svhn, extra: a, extra_share: 0.99}", "{name: svhn, extra_share: 0}"},
            {"{name: svhn, extra: a, extra_share: 0}", "{name: svhn, extra: a, extra_share: 1}",
             "{name: svhn, extra_share: 0.5}"}},
      Range{"train.model", {"{name: wrn-28-10, extra_block: true}", "{name: wrn-34-10, extra_block: false}"}, {}},
      Range{"train.model.activation", {"relu", "silu"}, {"gelu"}},
      Range{"train.method.name", {"ham", "pgd-at"}, {"fat"}},
      Range{"train.method.mining_step", {"1", "10"}, {"0", "11"}},
      Range{"train.method.mining_start_epoch", {"1", "2147483647"}, {"0"}},
      Range{"train.method.retained_easy_share", {"0", "1"}, {"-0.1", "1.1"}},
      Range{"train.method.minimum_hard", {"1", "128"}, {"0", "129"}},
      Range{"train.method.retained_easy", {"random", "high_confidence"}, {"low_confidence"}},
      Range{"train.method.weight_mode", {"none", "first_cross", "delta_max", "kappa"}, {"margin"}},
      Range{"train.method.drop_share", {"0", "0.99"}, {"-0.1", "1"}},
      Range{"train.attack.epsilon", {"1e-9", "1"}, {"0", "1.1"}},
      Range{"train.attack.step_size", {"1e-9", "1"}, {"0", "1.1"}},
      Range{"train.attack.steps", {"1", "1000"}, {"0", "1001"}},
      Range{"train.attack.random_start", {"true", "false"}, {}},
      Range{"train.attack.loss", {"cross_entropy", "margin", "dlr"}, {"cw"}},
      Range{"train.attack.start_distribution", {"uniform", "normal"}, {"zero"}},
      Range{"train.attack.weights", {"current", "average"}, {"best"}},
      Range{"train.attack.batch_norm", {"evaluation", "training"}, {"frozen"}},
      Range{"train.attack.stages",
            {"[]", "[{start_epoch: 1, epsilon: 1, step_size: 1, steps: 3}, {start_epoch: 2147483647, steps: 1000}]",
             "[{start_epoch: 2, steps: 1}, {start_epoch: 7}]"},
            {"[{start_epoch: 0}]", "[{start_epoch: 2, epsilon: 0}]", "[{start_epoch: 2, step_size: 1.1}]",
             "[{start_epoch: 2, steps: 1001}]", "[{start_epoch: 2}, {start_epoch: 2}]"}},
      Range{"train.optimizer.name", {"sgd", "adam", "adamw"}, {"lion"}},
      Range{"train.optimizer.learning_rate", {"1e-9", "10"}, {"0", "10.1"}},
      Range{"train.optimizer.momentum", {"0", "0.99"}, {"-0.1", "1"}},
      Range{"train.optimizer.weight_decay", {"0", "1"}, {"-0.1", "1.1"}},
      Range{"train.optimizer.gamma", {"1e-9", "1"}, {"0", "1.1"}},
      Range{"train.optimizer.schedule", {"constant", "cosine", "one-cycle"}, {"linear"}},
      Range{"train.optimizer",
            {"{schedule: step, milestones: [1, 2147483647]}", "{schedule: step, milestones: [2], factors: [100]}",
             "{name: sgd, nesterov: true, decay_norm_and_bias: false}"},
            {"{schedule: step, milestones: [0]}", "{schedule: step, milestones: [2, 2]}",
             "{schedule: step, milestones: [2], factors: [0]}", "{schedule: step, milestones: [2], factors: [101]}",
             "{schedule: step, milestones: [2], factors: [1, 1]}"}},
      Range{"train.optimizer.decay_norm_and_bias", {"true", "false"}, {}},
      Range{"train.optimizer.warmup_share", {"0.01", "0.99"}, {"0", "1"}},
      Range{"train.optimizer.schedule_by", {"iteration", "epoch"}, {"batch"}},
      Range{"train.optimizer.gradient_clip_norm", {"0", "1e6"}, {"-1", "1.1e6"}},
      Range{"train.epochs", {"1", "100000"}, {"0", "100001"}},
      Range{"train.batch_size", {"1", "65536"}, {"0", "65537"}},
      Range{"train.ema_decay", {"0", "0.9999"}, {"-0.1", "1"}},
      Range{"train.seed", {"0", "18446744073709551615"}, {}},
      Range{"train.label_smoothing", {"0", "0.99"}, {"-0.1", "1"}},
      Range{"train.class_bias.running_rate", {"0", "1"}, {"-0.1", "1.1"}},
      Range{"train.class_bias.running_decay", {"0", "0.99"}, {"-0.1", "1"}},
      Range{"train.class_bias.fit_rounds", {"0", "100"}, {"-1", "101"}},
      Range{"train.class_bias.fit_step", {"1e-9", "10"}, {"0", "11"}},
      Range{"train.precision", {"fp32", "fp64", "bf16"}, {"tf32"}},
      Range{"train",
            {"{data: {name: svhn}, precision: tf32, resources: {device: cuda}}",
             "{data: {name: svhn}, precision: fp64, resources: {device: cuda}}"},
            {"{data: {name: svhn}, precision: tf32, resources: {device: cpu}}"}},
      Range{"train.batch_norm", {"synchronized", "local"}, {"global"}},
      Range{"train.swa_start_epoch", {"0", "12"}, {"-1", "13"}},
      Range{"train.data.augmentation.cutmix", {"0", "1"}, {"-0.1", "1.1"}},
      Range{"train.method.balance_ranks", {"true", "false"}, {}},
      Range{"train.model.normalization", {"none", "data_set"}, {"batch"}},
      Range{"train.attack.norm", {"linf", "l2"}, {"l1"}},
      Range{"train.attack", {"{norm: l2, epsilon: 100, step_size: 100}"}, {"{norm: l2, epsilon: 101, step_size: 1}"}},
      Range{"train.accumulation_steps", {"1", "128"}, {"0", "129"}},
      Range{"train.checkpoint.every_iterations", {"0", "2147483647"}, {"-1"}},
      Range{"train.checkpoint.keep_every_epochs", {"0", "2147483647"}, {"-1"}},
      Range{"train.evaluation.every_epochs", {"0", "2147483647"}, {"-1"}},
      Range{"train.evaluation.reestimate_batch_norm", {"true", "false"}, {}},
      Range{"train.evaluation.final_suites",
            {"[]", "[{name: a, attacks: [{loss: dlr}]}]",
             "[{name: a, epsilon: 1, attacks: [{steps: 10000, step_size: 1, restarts: 100}]}]",
             "[{name: a, norm: l2, epsilon: 100, attacks: [{step_size: 100, judged_at: any}]}]",
             "[{name: a, attacks: [{name: apgd}, {name: apgd-t}, {name: fab-t}, {name: square}]}]",
             "[{name: a, attacks: [{name: apgd, loss: dlr}, {name: apgd-t, targets: 1000}]}]"},
            {"[{name: a}]", "[{name: a, norm: l2, epsilon: 101, attacks: [{step_size: 1}]}]",
             "[{name: a, norm: l1, attacks: [{}]}]", "[{name: a, attacks: [{judged_at: first}]}]",
             "[{name: pgd-20, attacks: [{}]}]", "[{name: a, attacks: [{loss: cw}]}]",
             "[{name: a, attacks: [{steps: 0}]}]", "[{name: a, attacks: [{restarts: 101}]}]",
             "[{name: a, attacks: [{name: fab}]}]", "[{name: a, attacks: [{name: apgd, step_size: 0.1}]}]",
             "[{name: a, attacks: [{targets: 1}]}]", "[{name: a, attacks: [{name: fab-t, targets: 0}]}]"}},
      Range{"train.resources.world_size", {"1", "128"}, {"0", "129"}},
      Range{"train.resources.device", {"cpu", "cuda"}, {"tpu"}},
      Range{"train.resources.threads_per_rank", {"1", "1024"}, {"0", "1025"}},
      Range{"train.retry.max_attempts", {"1", "1000"}, {"0", "1001"}},
      Range{"evaluate.model.name", {"cnn-16-32", "wrn-28-10"}, {}},
      Range{"evaluate.model", {"{name: wrn-28-10, extra_block: true}", "{name: wrn-34-10, extra_block: false}"}, {}},
      Range{"evaluate.model.activation", {"relu", "silu"}, {"gelu"}},
      Range{"evaluate.model.normalization", {"none"}, {"data_set", "batch"}},
      Range{"evaluate.weights", {kDigest}, {"\"\""}},
      Range{"evaluate.job", {"projects/default/jobs/a1"}, {}},
      Range{"evaluate.data.rows", {"0", "200000"}, {"-1", "200001"}},
      Range{"evaluate.data.image_size", {"0"}, {"-1", "161"}},
      Range{"evaluate.suite.name", {"a"}, {"\"\""}},
      Range{"evaluate.suite.epsilon", {"1e-9", "1"}, {"0", "1.1"}},
      Range{"evaluate.suite.norm", {"linf", "l2"}, {"l1"}},
      Range{"evaluate.suite", {"{norm: l2, epsilon: 100}"}, {"{norm: l2, epsilon: 101}"}},
      Range{"evaluate.suite.attacks",
            {"[]", "[{loss: dlr}]", "[{name: apgd-t, targets: 1000}]"},
            {"[{steps: 0}]", "[{name: fab}]", "[{targets: 1}]", "[{restarts: 101}]"}},
      Range{"evaluate.precision", {"fp32", "fp64", "bf16"}, {"tf32"}},
      Range{"evaluate.seed", {"0", "18446744073709551615"}, {}},
      Range{"evaluate.resources", {"{device: cuda}"}, {"{device: tpu}"}},
      Range{"evaluate.resources.world_size", {"1", "4096"}, {"0", "4097"}},
      Range{"evaluate.resources.device", {"cpu", "cuda"}, {"tpu"}},
      Range{"evaluate.resources.threads_per_rank", {"1", "1024"}, {"0", "1025"}},
      Range{"evaluate.retry.max_attempts", {"1", "1000"}, {"0", "1001"}}};
}

class RangesTest : public testing::TestWithParam<Range> {
 protected:
  // The defaults, with one field as in `value`; whether each of the two takes it.
  std::pair<bool, bool> Taken(const char* value) {
    ham::v1::JobSpec spec;
    const bool evaluates = absl::StartsWith(GetParam().path, "evaluate.");
    if (evaluates) {
      spec.mutable_evaluate()->mutable_data()->set_name("fashion-mnist");
      spec.mutable_evaluate()->set_weights(kDigest);
    } else {
      spec.mutable_train()->mutable_data()->set_name("fashion-mnist");
    }
    const absl::Status set = SetJobSpecField(GetParam().path, value, &spec);
    EXPECT_TRUE(set.ok()) << set;
    const bool by_coordinator = ResolveJobSpec(&spec).empty();
    const nlohmann::json json = JsonOf(spec);
    return {by_coordinator, evaluates ? ParseEvaluateSpec(json).ok() : ParseTrainSpec(json).ok()};
  }
};

TEST_P(RangesTest, AreTheSameForCoordinatorAndTrainer) {
  for (const char* value : GetParam().taken) EXPECT_EQ(Taken(value), std::make_pair(true, true)) << value;
  for (const char* value : GetParam().refused) EXPECT_EQ(Taken(value), std::make_pair(false, false)) << value;
}

INSTANTIATE_TEST_SUITE_P(Fields, RangesTest, testing::ValuesIn(Ranges()),
                         [](const testing::TestParamInfo<Range>& tested) {
                           std::string name = tested.param.path;
                           for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           return name;
                         });

void CollectOptions(const google::protobuf::Descriptor* section, const std::string& at, std::set<std::string>* out) {
  for (int i = 0; i < section->field_count(); ++i) {
    const google::protobuf::FieldDescriptor* field = section->field(i);
    const std::string path = absl::StrCat(at, ".", field->name());
    if (field->message_type() != nullptr && !field->is_repeated()) {
      CollectOptions(field->message_type(), path, out);
    } else {
      out->insert(path);
    }
  }
}

TEST(RangesOfAllTest, EveryOptionIsTested) {
  std::set<std::string> options;
  CollectOptions(ham::v1::TrainSpec::descriptor(), "train", &options);
  CollectOptions(ham::v1::EvaluateSpec::descriptor(), "evaluate", &options);
  for (const Range& range : Ranges()) options.erase(range.path);
  // Names, and what is tested with the section it belongs to.
  EXPECT_THAT(options, testing::UnorderedElementsAre(
                           "train.data.name", "train.data.extra_share", "train.model.name", "train.model.extra_block",
                           "train.optimizer.milestones", "train.optimizer.factors", "train.optimizer.nesterov",
                           "train.evaluation.suites", "evaluate.data.name", "evaluate.model.extra_block"));
}

// Two tables: one for who submits, one for who reads the files.
TEST(DataSetDefaultsTest, AreThoseOfTheTrainersTable) {
  for (const KnownDataSet& known : KnownDataSets()) {
    ham::v1::JobSpec spec;
    spec.mutable_train()->mutable_data()->set_name(known.name);
    ASSERT_TRUE(ResolveJobSpec(&spec).empty()) << known.name;
    const auto read = ParseTrainSpec(JsonOf(spec));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->data.augmentation, known.augmentation) << known.name;
    EXPECT_EQ(read->data.image_size, known.resizable() ? known.height : 0) << known.name;
  }
}

}  // namespace
}  // namespace ham::trainer
