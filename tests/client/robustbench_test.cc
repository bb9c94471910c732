#include "client/robustbench.h"

#include <gtest/gtest.h>

#include <numeric>

#include <nlohmann/json.hpp>

#include "tests/support/made_record.h"

namespace ham::client {
namespace {

using nlohmann::json;

// AutoAttack on four classes, so with three targets.
EvaluationRecord Standard() {
  EvaluationRecord inputs = testing::MadeInputs();
  inputs.data.name = "cifar-10";
  std::iota(inputs.data.row_ids.begin(), inputs.data.row_ids.end(), 0);
  inputs.attacks.clear();
  for (const char* name : {"apgd", "apgd-t", "fab-t", "square"}) {
    RecordedAttack attack;
    attack.name = name;
    attack.loss = attack.name == "apgd" ? "cross_entropy" : "";
    attack.steps = attack.name == "square" ? 5000 : 100;
    attack.targets = attack.name.back() == 't' ? 3 : 0;
    inputs.attacks.push_back(attack);
  }
  return inputs;
}

TEST(RobustBenchJsonTest, HasTheKeysOfItsModelInformation) {
  EvalExportOptions facts;
  facts.name = "Title";
  facts.additional_data = true;
  const absl::StatusOr<std::string> text = RobustBenchJson(*MakeRecord(Standard()), facts);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(json::parse(*text), (json{{"link", ""},
                                      {"name", "Title"},
                                      {"authors", ""},
                                      {"additional_data", true},
                                      {"number_forward_passes", 1},
                                      {"dataset", "cifar10"},
                                      {"venue", ""},
                                      {"architecture", "wrn-28-10"},
                                      {"eps", "8/255"},
                                      {"clean_acc", "80.00"},
                                      {"reported", "50.00"},
                                      {"autoattack_acc", "50.00"},
                                      {"unreliable", false}}));
}

TEST(RobustBenchJsonTest, TakesFactsAndDoubts) {
  EvaluationRecord inputs = Standard();
  inputs.data.name = "fashion-mnist";
  inputs.threat = {"l2", 0.5};
  inputs.warnings.push_back({WarningType::kRandomized, "it differs"});
  EvalExportOptions facts;
  facts.architecture = "WideResNet-28-10";
  const json object = json::parse(*RobustBenchJson(*MakeRecord(inputs), facts));
  EXPECT_EQ(object.at("dataset"), "fashion-mnist");
  EXPECT_EQ(object.at("architecture"), "WideResNet-28-10");
  EXPECT_EQ(object.at("eps"), "0.5");
  EXPECT_EQ(object.at("unreliable"), true);
}

TEST(RobustBenchJsonTest, IsOfAutoAttackOnTestImagesOnly) {
  void (*const changes[])(EvaluationRecord*) = {[](EvaluationRecord* r) { r->data.split = "validation"; },
                                                [](EvaluationRecord* r) { r->attacks.pop_back(); },
                                                [](EvaluationRecord* r) { r->attacks[0].loss = "dlr"; },
                                                [](EvaluationRecord* r) { r->attacks[1].steps = 99; },
                                                [](EvaluationRecord* r) { r->attacks[2].targets = 2; },
                                                [](EvaluationRecord* r) { r->attacks[3].restarts = 2; },
                                                [](EvaluationRecord* r) { std::swap(r->attacks[1], r->attacks[2]); },
                                                [](EvaluationRecord* r) { r->attacks.push_back(r->attacks[3]); }};
  for (const auto& change : changes) {
    EvaluationRecord inputs = Standard();
    change(&inputs);
    const absl::StatusOr<EvaluationRecord> record = MakeRecord(inputs);
    ASSERT_TRUE(record.ok()) << record.status();
    EXPECT_TRUE(absl::IsFailedPrecondition(RobustBenchJson(*record, {}).status()));
  }
}

}  // namespace
}  // namespace ham::client
