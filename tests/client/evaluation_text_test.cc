#include "client/evaluation_text.h"

#include <gtest/gtest.h>

#include <google/protobuf/util/json_util.h>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "ham/v1/evaluation.pb.h"
#include "tests/support/made_record.h"

namespace ham::client {
namespace {

using nlohmann::json;

TEST(EvaluationTablesTest, SayWhatARecordSays) {
  const std::string text = EvaluationTables({testing::MadeRecord(), ""});
  for (const char* part :
       {"model      wrn-28-10, weights aaaa", "data       toy test, 10 images, rows 7 to 16\n",
        "threat     linf, epsilon 0.03137254901960784\n", "signed by  nobody: unsigned\n", "trusted    yes\n",
        "clean accuracy                 80.0 %  49.0 % to 94.3 %\n", "worst class, cat               33.3 %",
        "worst 2 classes                41.7 %", "the same / mean of classes     0.2722",
        "ant    4       75.0 %   50.0 %  15.0 % to 85.0 %  25.0 %          bee 50.0 %\n",
        "dog    0       -        -       -                 -               -\n",
        "pgd cross_entropy, 20 x 0.00784313725490196, 3 restarts, judged at last  8      2       60.0 %        33.3 %",
        "apgd-t, 100 x 3 targets", "FEWER_TARGETS  apgd-t aimed at 3 classes; there are no 9 others\n"}) {
    EXPECT_TRUE(absl::StrContains(text, part)) << part << "\nis not in\n" << text;
  }
}

TEST(EvaluationTablesTest, SayWhoSignedItAndThatItIsNotTrusted) {
  EvaluationRecord inputs = testing::MadeInputs();
  inputs.warnings.push_back({WarningType::kZeroGradients, "steer\x1b[31m"});
  const std::string text = EvaluationTables({*MakeRecord(inputs), "KEY="});
  EXPECT_TRUE(absl::StrContains(text, "signed by  KEY=\n"));
  EXPECT_TRUE(absl::StrContains(text, "trusted    NO: see the warnings\n"));
  EXPECT_TRUE(absl::StrContains(text, "ZERO_GRADIENTS  steer?[31m\n"));
}

TEST(EvaluationJsonTest, IsTheRecordWithoutItsSamples) {
  json object = json::parse(EvaluationJson({testing::MadeRecord(), "KEY="}));
  EXPECT_EQ(object.at("signed_by"), "KEY=");
  object.erase("signed_by");
  EXPECT_FALSE(object.contains("samples"));
  ham::v1::EvaluationRecord message;
  ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(object.dump(), &message).ok());
  EXPECT_EQ(message.figures().robust_accuracy().value(), 0.5);
}

struct Compared {
  EvaluationRecord a = testing::MadeRecord(), b, b2;
  std::vector<NamedRecord> side_a, side_b;
  RecordComparison comparison;

  Compared() {
    EvaluationRecord inputs = testing::MadeInputs();
    inputs.model.weights_digest.assign(64, '2');
    inputs.samples.broken_by[2] = kNotBroken;
    inputs.samples.attack_predictions[2] = 0;
    inputs.samples.margins[2] = 1;
    inputs.warnings.push_back({WarningType::kRandomized, "it differs"});
    b = *MakeRecord(inputs);
    inputs.model.weights_digest.assign(64, '3');
    b2 = *MakeRecord(inputs);
    side_a = {{"a.json", &a}};
    side_b = {{"b.json", &b}, {"b2.json", &b2}};
    comparison = CompareRecords(side_a, side_b, {.validation_class = "ant"}).value();
  }
};

TEST(ComparisonTablesTest, SayHowTwoModelsDiffer) {
  const Compared compared;
  const std::string text = ComparisonTables(compared.side_a, compared.side_b, compared.comparison);
  for (const char* part :
       {"A: a.json, wrn-28-10\nB: b.json, wrn-28-10, NOT TRUSTED: see its warnings\nB: b2.json",
        "robust accuracy  50.0 %  60.0 %  +10.00         +0.00 to +30.00\n", "worst class      33.3 %  33.3 %  +0.00",
        "clean accuracy   80.0 %  80.0 %  +0.00          +0.00 to +0.00\n",
        "ant    4       0       1       +25.00         +0.00 to +75.00  1  1\n",
        "dog    0       0       0       -              -                -  -\n",
        "ant, chosen beforehand: +25.00 points, p = 1 without correction\n",
        "A               1        50.00          33.33          80.00\n",
        "B               2        60.00 +- 0.00  33.33 +- 0.00  80.00 +- 0.00\n",
        "rho of B against A: 0.2 (to look at"}) {
    EXPECT_TRUE(absl::StrContains(text, part)) << part << "\nis not in\n" << text;
  }
}

TEST(ComparisonJsonTest, HasTheFieldsOfTheComparison) {
  const json object = json::parse(ComparisonJson(Compared().comparison));
  EXPECT_EQ(object.at("robust_difference").at("value"), 0.1);
  EXPECT_EQ(object.at("worst_class_difference").at("value"), 0);
  EXPECT_EQ(object.at("clean_difference").at("high"), 0);
  EXPECT_EQ(object.at("classes").at(0).at("only_b"), 1);
  EXPECT_EQ(object.at("classes").at(0).at("p_value"), 1);
  EXPECT_EQ(object.at("classes").at(3).at("adjusted_p_value"), "NaN");
  EXPECT_EQ(object.at("a").at("robust_accuracy").at("standard_deviation"), "NaN");
  EXPECT_EQ(object.at("b").at("records"), 2);
  EXPECT_EQ(object.at("validation_class"), 0);
  EXPECT_NEAR(object.at("rho").get<double>(), 0.2, 1e-12);
}

}  // namespace
}  // namespace ham::client
