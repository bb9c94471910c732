#include "worker/agent/metric_point.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/agent/trainer_text.h"

namespace ham::agent {
namespace {

using nlohmann::json;

json Evaluation() { return json::parse(ham::testing::TrainerFrameTexts()[3]).at("point"); }

struct Change {
  const char* name;
  std::function<void(json*)> make;
  const char* says;  // part of the error; nullptr: the point is good
};

class MetricPointTable : public ::testing::TestWithParam<Change> {};

json& Inner(json* point) { return point->at("evaluation"); }
json& Suite(json* point) { return Inner(point).at("suites").at(0); }

INSTANTIATE_TEST_SUITE_P(
    Changes, MetricPointTable,
    ::testing::Values(
        Change{"None", [](json*) {}, nullptr},
        Change{"NoSuites", [](json* p) { Inner(p)["suites"] = json::array(); }, nullptr},
        Change{"OfTheValidationRows", [](json* p) { Inner(p)["split"] = "validation"; }, nullptr},
        Change{"OtherSplit", [](json* p) { Inner(p)["split"] = "train"; }, "split is \"train\""},
        Change{"NoSplit", [](json* p) { Inner(p).erase("split"); }, "split is \"\""},
        Change{"NonFiniteAsText", [](json* p) { Inner(p)["clean_accuracy"] = "-Infinity"; }, nullptr},
        Change{"OtherTextForANumber", [](json* p) { Inner(p)["clean_accuracy"] = "many"; }, "clean_accuracy"},
        Change{"UnknownField", [](json* p) { (*p)["itération"] = 1; }, "itération"},
        Change{"UnknownFieldWithin", [](json* p) { Suite(p)["strength"] = 1; }, "strength"},
        Change{"NoKind", [](json* p) { p->erase("evaluation"); }, "without train, evaluation, summary or notice"},
        Change{"TwoKinds", [](json* p) { (*p)["summary"] = json::object(); }, "no MetricPoint"},
        Change{"OneRowsTooFew", [](json* p) { Inner(p)["per_class_rows"].erase(0); }, "per_class_rows has 1"},
        Change{"OneAccuracyTooMany", [](json* p) { Inner(p)["per_class_clean_accuracy"].push_back(0.5); },
               "per_class_clean_accuracy has 3"},
        Change{"OneRobustAccuracyTooFew", [](json* p) { Suite(p)["per_class_robust_accuracy"].erase(0); },
               "suites[pgd].per_class_robust_accuracy has 1"},
        Change{"OneClassTooMany", [](json* p) { Inner(p)["class_names"].push_back("c"); }, "for 3 classes"},
        Change{"NoClasses", [](json* p) { Inner(p).erase("class_names"); }, "class_names is empty"},
        Change{"WorstClassTooHigh", [](json* p) { Suite(p)["worst_class"] = 2; }, "worst_class is 2"},
        Change{"WorstClassBelowZero", [](json* p) { Suite(p)["worst_class"] = -1; }, "worst_class is -1"},
        Change{"VectorUnderTwoNames", [](json* p) { Inner(p)["perClassRows"] = json::array({1}); },
               "per_class_rows has 3"},
        Change{"ObjectForAVector", [](json* p) { Inner(p)["per_class_rows"] = json::object(); }, "no MetricPoint"},
        Change{"VectorForAnObject", [](json* p) { (*p)["evaluation"] = json::array({1}); }, "no MetricPoint"},
        Change{"NumberTooBig", [](json* p) { (*p)["epoch"] = 2147483648LL; }, "epoch"},
        Change{"HalfAnInteger", [](json* p) { (*p)["epoch"] = 1.5; }, "epoch"},
        Change{"Huge", [](json* p) { Inner(p)["split"] = std::string(2 << 20, 'a'); }, "bytes"},
        Change{"HugeVectors",
               [](json* p) {
                 for (const char* key : {"class_names", "per_class_rows", "per_class_clean_accuracy"}) {
                   Inner(p)[key] = json::array();
                 }
                 Inner(p)["suites"] = json::array();
                 for (int i = 0; i < 200000; ++i) {
                   Inner(p)["class_names"].push_back("c");
                   Inner(p)["per_class_rows"].push_back(1);
                   Inner(p)["per_class_clean_accuracy"].push_back(1);
                 }
               },
               "bytes"}),
    [](const ::testing::TestParamInfo<Change>& tested) { return tested.param.name; });

// The same of a train point: two classes, mining_step 2.
class TrainPointTable : public ::testing::TestWithParam<Change> {};

json& Train(json* point) { return point->at("train"); }

INSTANTIATE_TEST_SUITE_P(
    Changes, TrainPointTable,
    ::testing::Values(Change{"None", [](json*) {}, nullptr},
                      Change{"NoMining",
                             [](json* p) {
                               Train(p).erase("per_class_hard_share");
                               Train(p).erase("steps_to_boundary");
                             },
                             nullptr},
                      Change{"WithinAnEpoch",
                             [](json* p) {
                               Train(p)["end_of_epoch"] = false;
                               Train(p).erase("per_class_hard_share");
                               Train(p).erase("confidence_histogram");
                             },
                             nullptr},
                      Change{"HardShareWithinAnEpoch",
                             [](json* p) {
                               Train(p)["end_of_epoch"] = false;
                               Train(p).erase("confidence_histogram");
                             },
                             "before the end of an epoch"},
                      Change{"HistogramWithinAnEpoch",
                             [](json* p) {
                               Train(p)["end_of_epoch"] = false;
                               Train(p).erase("per_class_hard_share");
                             },
                             "before the end of an epoch"},
                      Change{"OneHardShareTooMany", [](json* p) { Train(p)["per_class_hard_share"].push_back(0.5); },
                             "confidence_histogram has 20 entries and per_class_hard_share 3"},
                      Change{"OneBinTooFew", [](json* p) { Train(p)["confidence_histogram"].erase(0); },
                             "confidence_histogram has 19 entries"},
                      Change{"HalfAClassWithoutMining",
                             [](json* p) {
                               Train(p).erase("per_class_hard_share");
                               Train(p)["confidence_histogram"].erase(0);
                             },
                             "confidence_histogram has 19 entries"},
                      Change{"NegativeCount", [](json* p) { Train(p)["confidence_histogram"][3] = -1; },
                             "confidence_histogram holds -1"},
                      Change{"NegativeSteps", [](json* p) { Train(p)["steps_to_boundary"][0] = -2; },
                             "steps_to_boundary holds -2"},
                      Change{"NoAttackStep",
                             [](json* p) {
                               Train(p)["steps_to_boundary"] = {1, 2};
                             },
                             "steps_to_boundary has 2 entries"}),
    [](const ::testing::TestParamInfo<Change>& tested) { return tested.param.name; });

void ExpectOutcome(const Change& change, json point) {
  change.make(&point);
  const absl::Status status = ParseMetricPoint(point).status();
  if (change.says == nullptr) {
    EXPECT_TRUE(status.ok()) << status;
    return;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_NE(status.message().find(change.says), std::string::npos) << status;
}

TEST_P(MetricPointTable, IsTakenOrNamesWhatIsWrong) { ExpectOutcome(GetParam(), Evaluation()); }

TEST_P(TrainPointTable, IsTakenOrNamesWhatIsWrong) {
  ExpectOutcome(GetParam(), json::parse(ham::testing::TrainerFrameTexts()[2]).at("point"));
}

TEST(MetricPoint, WhatIsNoObjectIsAnError) {
  for (const char* text : {"5", "\"x\"", "[]", "[1]", "true", "{}", "null"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseMetricPoint(json::parse(text)).status())) << text;
  }
}

}  // namespace
}  // namespace ham::agent
