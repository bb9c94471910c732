#include "proto/evaluation/evaluation_record.h"

#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "ham/v1/evaluation.pb.h"
#include "proto/evaluation/record_json.h"
#include "tests/support/made_record.h"

namespace ham {
namespace {

using nlohmann::json;
using testing::MadeInputs;
using testing::MadeRecord;

TEST(MakeRecordTest, AddsWhatFollowsFromTheOutcomes) {
  const EvaluationRecord record = MadeRecord();
  EXPECT_EQ(record.attacks[0].rows_tried, 8);
  EXPECT_EQ(record.attacks[0].rows_broken, 2);
  EXPECT_EQ(record.attacks[1].rows_tried, 6);
  EXPECT_EQ(record.attacks[1].rows_broken, 1);
  EXPECT_EQ(record.figures.robust_accuracy.value, 0.5);
  EXPECT_EQ(record.figures.options.worst_k, 2);
  EXPECT_EQ(record.figures.options.resamples, 2000);
  EXPECT_TRUE(record.trusted);
  EXPECT_TRUE(CheckRecord(record).ok()) << CheckRecord(record);
}

TEST(MakeRecordTest, OnlyFewerTargetsLeaveARecordTrusted) {
  for (int type = 1; type <= 11; ++type) {
    EvaluationRecord inputs = MadeInputs();
    inputs.warnings.push_back({static_cast<WarningType>(type), "a doubt"});
    EXPECT_EQ(MakeRecord(inputs)->trusted, type == 11) << type;
  }
  EvaluationRecord none = MadeInputs();
  none.warnings.clear();
  EXPECT_TRUE(MakeRecord(none)->trusted);
}

// Schema and code are one: protobuf reads a record, and writes the same fields with the same values.
TEST(RecordTextTest, IsTheSchemasJson) {
  EvaluationRecord with_ids = MadeInputs();
  with_ids.data.row_ids.back() = 4'000'000'000;
  for (const EvaluationRecord& record : {MadeRecord(), *MakeRecord(with_ids)}) {
    const std::string text = RecordText(record);
    v1::EvaluationRecord message;
    const auto parsed = google::protobuf::util::JsonStringToMessage(text, &message);
    ASSERT_TRUE(parsed.ok()) << parsed.ToString();
    google::protobuf::util::JsonPrintOptions options;
    options.preserve_proto_field_names = true;
    options.always_print_primitive_fields = true;
    std::string again;
    ASSERT_TRUE(google::protobuf::util::MessageToJsonString(message, &again, options).ok());
    EXPECT_EQ(json::parse(text), json::parse(again));
    EXPECT_EQ(message.seed(), ~uint64_t{0});
    EXPECT_EQ(message.warnings(0).type(), v1::EvaluationWarning::FEWER_TARGETS);
    EXPECT_EQ(message.samples().broken(0), std::string("\x04\x01", 2));
    EXPECT_EQ(message.samples().labels().substr(8, 4), std::string("\1\0\1\0", 4));
    EXPECT_EQ(message.samples().margins().substr(0, 4), std::string("\0\0\0\x3f", 4)) << "0.5";
  }
}

TEST(RecordTextTest, KnowsTheTypesOfWarningsThatTheSchemaKnows) {
  using Type = v1::EvaluationWarning::Type;
  for (int type = v1::EvaluationWarning::Type_MIN; type <= v1::EvaluationWarning::Type_MAX; ++type) {
    EXPECT_EQ(WarningTypeName(static_cast<WarningType>(type)),
              v1::EvaluationWarning::Type_Name(static_cast<Type>(type)));
  }
}

TEST(RecordTextTest, NamesRowsInTheShortestWay) {
  const json side_by_side = RecordJson(MadeRecord()).at("data");
  EXPECT_EQ(side_by_side.at("rows"), 10);
  EXPECT_EQ(side_by_side.at("first_row"), 7);
  EXPECT_EQ(side_by_side.at("row_ids"), "");
  EvaluationRecord inputs = MadeInputs();
  inputs.data.row_ids.back() = 99;
  const json apart = RecordJson(*MakeRecord(inputs)).at("data");
  EXPECT_EQ(apart.at("first_row"), 0);
  EXPECT_EQ(apart.at("row_ids").get<std::string>().size(), 56u);  // 40 bytes
}

TEST(RecordTextTest, IsCanonicalJson) {
  const std::string text = RecordText(MadeRecord());
  EXPECT_EQ(text, json::parse(text).dump()) << "sorted keys, no spaces";
  EXPECT_NE(text.find("\"step_size\":0.0078431372549"), std::string::npos);
  EXPECT_NE(text.find("\"lowered_by\":0.2,"), std::string::npos);
  EXPECT_NE(text.find("\"value\":\"NaN\""), std::string::npos) << "the class without rows";
}

struct WrongRecord {
  const char* name;
  void (*make)(EvaluationRecord*);
  const char* says;
};

void PrintTo(const WrongRecord& wrong, std::ostream* out) { *out << wrong.name; }

// What an evaluation may have got wrong: MakeRecord refuses it, and so does CheckRecord.
class WrongInputs : public ::testing::TestWithParam<WrongRecord> {};

INSTANTIATE_TEST_SUITE_P(
    Changes, WrongInputs,
    ::testing::Values(
        WrongRecord{"NoModelName", [](EvaluationRecord* r) { r->model.name = ""; }, "model.name is empty"},
        WrongRecord{"LongText", [](EvaluationRecord* r) { r->model.source = std::string(1001, 'a'); },
                    "model.source has 1001 bytes"},
        WrongRecord{"NotUtf8", [](EvaluationRecord* r) { r->model.source = "\xff"; }, "model.source is not UTF-8"},
        WrongRecord{"NoDigest", [](EvaluationRecord* r) { r->model.weights_digest = "abc"; }, "model.weights_digest"},
        WrongRecord{"OtherActivation", [](EvaluationRecord* r) { r->model.activation = "gelu"; },
                    "model.activation is \"gelu\"; allowed is \"relu\", \"silu\""},
        WrongRecord{"OneMeanTooMany", [](EvaluationRecord* r) { r->model.normalization_mean.push_back(0); },
                    "1 entries for 2 means"},
        WrongRecord{"MeanIsNan", [](EvaluationRecord* r) { r->model.normalization_mean[0] = NAN; },
                    "normalization_mean holds nan"},
        WrongRecord{"DeviationIs0", [](EvaluationRecord* r) { r->model.normalization_standard_deviation[0] = 0; },
                    "normalization_standard_deviation is 0"},
        WrongRecord{"ManyChannels",
                    [](EvaluationRecord* r) {
                      r->model.normalization_mean.resize(65);
                      r->model.normalization_standard_deviation.assign(65, 1);
                    },
                    "has 65 entries"},
        WrongRecord{"NoData", [](EvaluationRecord* r) { r->data.name = ""; }, "data.name is empty"},
        WrongRecord{"OtherSplit", [](EvaluationRecord* r) { r->data.split = "all"; }, "data.split is \"all\""},
        WrongRecord{"NoDataDigest", [](EvaluationRecord* r) { r->data.digest[0] = 'A'; }, "data.digest"},
        WrongRecord{"NegativeSize", [](EvaluationRecord* r) { r->data.image_size = -1; }, "data.image_size is -1"},
        WrongRecord{"OneClass", [](EvaluationRecord* r) { r->data.class_names = {"a"}; }, "data.class_names has 1"},
        WrongRecord{"ClassTwice", [](EvaluationRecord* r) { r->data.class_names[1] = "ant"; }, "\"ant\" twice"},
        WrongRecord{"NamelessClass", [](EvaluationRecord* r) { r->data.class_names[1] = ""; }, "class_names is empty"},
        WrongRecord{"ManyClasses",
                    [](EvaluationRecord* r) {
                      for (int i = 0; i < 1000; ++i) r->data.class_names.push_back(std::to_string(i));
                    },
                    "has 1004 entries; allowed is 2 to 1000"},
        WrongRecord{"NoRows",
                    [](EvaluationRecord* r) {
                      r->data.row_ids.clear();
                      r->samples = {};
                    },
                    "data.rows has 0 entries"},
        WrongRecord{"RowTwice", [](EvaluationRecord* r) { r->data.row_ids[1] = 7; }, "data.row_ids do not ascend"},
        WrongRecord{"OneRowMore", [](EvaluationRecord* r) { r->data.row_ids.push_back(50); },
                    "samples has 10 rows; data has 11"},
        WrongRecord{"OtherNorm", [](EvaluationRecord* r) { r->threat.norm = "l1"; }, "threat.norm is \"l1\""},
        WrongRecord{"Epsilon0", [](EvaluationRecord* r) { r->threat.epsilon = 0; }, "threat.epsilon is 0"},
        WrongRecord{"EpsilonNan", [](EvaluationRecord* r) { r->threat.epsilon = NAN; }, "threat.epsilon is nan"},
        WrongRecord{"EpsilonAbove1", [](EvaluationRecord* r) { r->threat.epsilon = 1.5; }, "up to 1"},
        WrongRecord{"L2EpsilonAbove100",
                    [](EvaluationRecord* r) {
                      r->threat = {"l2", 101};
                    },
                    "up to 100"},
        WrongRecord{"NoAttacks",
                    [](EvaluationRecord* r) {
                      r->attacks.clear();
                      r->samples.broken_by.assign(10, kNotBroken);
                      r->samples.attack_predictions = r->samples.clean_predictions;
                    },
                    "attacks has 0 entries"},
        WrongRecord{"UnknownAttack", [](EvaluationRecord* r) { r->attacks[1].name = "cw"; },
                    "attacks[1].name is \"cw\""},
        WrongRecord{"NoLoss", [](EvaluationRecord* r) { r->attacks[0].loss = ""; }, "attacks[0].loss is \"\""},
        WrongRecord{"LossOfNone", [](EvaluationRecord* r) { r->attacks[1].loss = "dlr"; },
                    "attacks[1].loss is \"dlr\""},
        WrongRecord{"NoSteps", [](EvaluationRecord* r) { r->attacks[1].steps = 0; }, "attacks[1].steps is 0"},
        WrongRecord{"NoStepSize", [](EvaluationRecord* r) { r->attacks[0].step_size = 0; },
                    "attacks[0].step_size is 0"},
        WrongRecord{"StepSizeOfNone", [](EvaluationRecord* r) { r->attacks[1].step_size = 1; },
                    "attacks[1].step_size is of pgd only"},
        WrongRecord{"NoRestart", [](EvaluationRecord* r) { r->attacks[0].restarts = 0; }, "attacks[0].restarts is 0"},
        WrongRecord{"NoTargets", [](EvaluationRecord* r) { r->attacks[1].targets = 0; }, "attacks[1].targets is 0"},
        WrongRecord{"TargetsOfNone", [](EvaluationRecord* r) { r->attacks[0].targets = 1; }, "attacks[0].targets is 1"},
        WrongRecord{"StartOfNone", [](EvaluationRecord* r) { r->attacks[1].random_start = true; },
                    "attacks[1].random_start is of pgd only"},
        WrongRecord{"NotJudged", [](EvaluationRecord* r) { r->attacks[0].judged_at = ""; }, "attacks[0].judged_at"},
        WrongRecord{"EndlessSeconds", [](EvaluationRecord* r) { r->attacks[0].seconds = INFINITY; },
                    "attacks[0].seconds is inf"},
        WrongRecord{"NegativeSeconds", [](EvaluationRecord* r) { r->attacks[0].seconds = -1; },
                    "attacks[0].seconds is -1"},
        WrongRecord{"OtherPrecision", [](EvaluationRecord* r) { r->precision = "fp16"; }, "precision is \"fp16\""},
        WrongRecord{"NoDevice", [](EvaluationRecord* r) { r->device = ""; }, "device is empty"},
        WrongRecord{"NoVersion", [](EvaluationRecord* r) { r->code_version = ""; }, "code_version is empty"},
        WrongRecord{"NoBuild", [](EvaluationRecord* r) { r->build_id = ""; }, "build_id is empty"},
        WrongRecord{"SilentWarning", [](EvaluationRecord* r) { r->warnings[0].message = ""; },
                    "warnings[0].message is empty"},
        WrongRecord{"ManyWarnings", [](EvaluationRecord* r) { r->warnings.resize(65, r->warnings[0]); },
                    "warnings has 65 entries"},
        WrongRecord{"ImpossibleOutcome", [](EvaluationRecord* r) { r->samples.broken_by[3] = 0; }, "samples: row 3"}),
    [](const ::testing::TestParamInfo<WrongRecord>& tested) { return tested.param.name; });

TEST_P(WrongInputs, AreNamed) {
  EvaluationRecord inputs = MadeInputs(), record = MadeRecord();
  GetParam().make(&inputs);
  GetParam().make(&record);
  for (const absl::Status& status : {MakeRecord(inputs).status(), CheckRecord(record)}) {
    EXPECT_TRUE(absl::IsDataLoss(status));
    EXPECT_NE(status.message().find(GetParam().says), std::string::npos) << status;
  }
}

TEST(MakeRecordTest, RefusesOptionsOutOfRange) {
  EXPECT_NE(MakeRecord(MadeInputs(), {.worst_k = 0}).status().message().find("worst_k is 0"), std::string::npos);
  EXPECT_NE(MakeRecord(MadeInputs(), {.resamples = 99}).status().message().find("resamples is 99"), std::string::npos);
  EXPECT_FALSE(MakeRecord(MadeInputs(), {.resamples = 10001}).ok());
}

// What only a forged record can have.
class WrongFigures : public ::testing::TestWithParam<WrongRecord> {};

INSTANTIATE_TEST_SUITE_P(
    Changes, WrongFigures,
    ::testing::Values(
        WrongRecord{"OneRowMoreTried", [](EvaluationRecord* r) { ++r->attacks[0].rows_tried; },
                    "attacks[0] has rows_tried 9"},
        WrongRecord{"OneRowMoreBroken", [](EvaluationRecord* r) { ++r->attacks[1].rows_broken; },
                    "attacks[1] has rows_tried 6 and rows_broken 2"},
        WrongRecord{"BetterAverage", [](EvaluationRecord* r) { r->figures.robust_accuracy.value += 1e-6; },
                    "figures.robust_accuracy.value is 0.500001, but the samples give 0.5"},
        WrongRecord{"NarrowerInterval", [](EvaluationRecord* r) { r->figures.standard_deviation.high -= 1e-6; },
                    "figures.standard_deviation.high is"},
        WrongRecord{"OtherWorstClass", [](EvaluationRecord* r) { r->figures.worst_class = 0; },
                    "figures.worst_class is 0"},
        WrongRecord{"BetterClass", [](EvaluationRecord* r) { r->figures.classes[2].robust_accuracy.value = 0.5; },
                    "figures.classes[2].robust_accuracy.value is 0.5"},
        WrongRecord{"NumberForNan", [](EvaluationRecord* r) { r->figures.classes[3].robust_accuracy.value = 1; },
                    "but the samples give \"NaN\""},
        WrongRecord{"NanForNumber", [](EvaluationRecord* r) { r->figures.robust_accuracy.low = NAN; },
                    "figures.robust_accuracy.low is \"NaN\""},
        WrongRecord{"OneClassLess", [](EvaluationRecord* r) { r->figures.classes.pop_back(); },
                    "figures.classes has 3 entries, but the samples give 4"},
        WrongRecord{"OtherConfusion", [](EvaluationRecord* r) { r->figures.confusion[1] = 1; },
                    "figures.confusion[1] is 1"},
        WrongRecord{"OtherEffect", [](EvaluationRecord* r) { r->figures.attacks[1].lowered_by = 0; },
                    "figures.attacks[1].lowered_by is 0"},
        WrongRecord{"OtherK", [](EvaluationRecord* r) { r->figures.options.worst_k = 1; },
                    "figures.worst_k_robust_accuracy"},
        WrongRecord{"EndlessResampling", [](EvaluationRecord* r) { r->figures.options.resamples = 2000000000; },
                    "figures.resamples is 2000000000"},
        WrongRecord{"TrustedInSpiteOfAWarning",
                    [](EvaluationRecord* r) { r->warnings[0].type = WarningType::kZeroGradients; },
                    "trusted is true, but the warnings say false"},
        WrongRecord{"Untrusted", [](EvaluationRecord* r) { r->trusted = false; }, "trusted is false"}),
    [](const ::testing::TestParamInfo<WrongRecord>& tested) { return tested.param.name; });

TEST_P(WrongFigures, AreNamed) {
  EvaluationRecord record = MadeRecord();
  GetParam().make(&record);
  const absl::Status status = CheckRecord(record);
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_NE(status.message().find(GetParam().says), std::string::npos) << status;
}

TEST(CheckRecordTest, AnotherProcessorMayRoundOtherwise) {
  EvaluationRecord record = MadeRecord();
  record.figures.standard_deviation.high += 1e-13;
  EXPECT_TRUE(CheckRecord(record).ok()) << CheckRecord(record);
}

}  // namespace
}  // namespace ham
