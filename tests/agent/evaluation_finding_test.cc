#include "worker/agent/evaluation_finding.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/agent/trainer_text.h"

namespace ham::agent {
namespace {

using nlohmann::json;

json FindingOf(int text) { return json::parse(ham::testing::TrainerFrameTexts()[text]).at("finding"); }
json Inputs() { return FindingOf(10); }
json Block() { return FindingOf(11); }
json Checks() { return FindingOf(12); }

struct Change {
  const char* name;
  json (*of)();
  std::function<void(json*)> make;
  const char* says;  // part of the error; nullptr: the finding is good
};

class FindingTable : public ::testing::TestWithParam<Change> {};

INSTANTIATE_TEST_SUITE_P(
    Changes, FindingTable,
    ::testing::Values(
        Change{"Inputs", Inputs, [](json*) {}, nullptr}, Change{"Block", Block, [](json*) {}, nullptr},
        Change{"Checks", Checks, [](json*) {}, nullptr},
        Change{"NoWarnings", Checks, [](json* f) { f->at("checks")["warnings"] = json::array(); }, nullptr},
        Change{"InputsOf3MiB", Inputs, [](json* f) { (*f)["inputs"] = std::string(3 << 20, 'a'); }, nullptr},
        Change{"InputsTooLong", Inputs, [](json* f) { (*f)["inputs"] = std::string((4 << 20) - (64 << 10), 'a'); },
               "bytes; at most"},
        Change{"NoKind", Inputs, [](json* f) { f->erase("inputs"); }, "without inputs, block or checks"},
        Change{"TwoKinds", Inputs, [](json* f) { (*f)["checks"] = json::object(); }, "no EvaluationFinding"},
        Change{"UnknownField", Block, [](json* f) { f->at("block")["speed"] = 1; }, "speed"},
        Change{"CleanStage", Block, [](json* f) { f->at("block")["stage"] = -1; }, nullptr},
        Change{"StageTooLow", Block, [](json* f) { f->at("block")["stage"] = -2; }, "block.stage is -2"},
        Change{"NoRows", Block,
               [](json* f) {
                 for (const char* key : {"rows", "predictions", "margins"}) f->at("block").erase(key);
               },
               "block.rows is empty"},
        Change{"RowsDescend", Block,
               [](json* f) {
                 f->at("block")["rows"] = {0, 7, 6};
               },
               "block.rows has 6 behind 7"},
        Change{"RowTwice", Block,
               [](json* f) {
                 f->at("block")["rows"] = {0, 7, 7};
               },
               "block.rows has 7 behind 7"},
        Change{"RowBelowZero", Block,
               [](json* f) {
                 f->at("block")["rows"] = {-1, 7, 8};
               },
               "rows"},
        Change{"APredictionTooFew", Block, [](json* f) { f->at("block").at("predictions").erase(0); },
               "3 rows, 2 predictions and 3 margins"},
        Change{"AMarginTooMany", Block, [](json* f) { f->at("block").at("margins").push_back(0.5); },
               "3 rows, 3 predictions and 4 margins"},
        Change{"NotFinitePrediction", Block, [](json* f) { f->at("block").at("predictions")[2] = -1; },
               "block.predictions holds -1"},
        Change{"SecondsBelowZero", Block, [](json* f) { f->at("block")["seconds"] = -0.5; }, "block.seconds is -0.5"},
        Change{"SecondsNotANumber", Block, [](json* f) { f->at("block")["seconds"] = "NaN"; }, "block.seconds is nan"},
        Change{"SecondsForEver", Block, [](json* f) { f->at("block")["seconds"] = "Infinity"; },
               "block.seconds is inf"},
        Change{"PassesBelowZero", Block, [](json* f) { f->at("block")["forward_passes"] = -1; }, "forward_passes"},
        Change{"GradientPassesBelowZero", Block, [](json* f) { f->at("block")["gradient_passes"] = "-1"; },
               "gradient_passes"},
        Change{"NoTypeOfWarning", Checks, [](json* f) { f->at("checks").at("warnings")[0].erase("type"); }, "type 0"},
        Change{"OtherTypeOfWarning", Checks, [](json* f) { f->at("checks").at("warnings")[0]["type"] = 99; },
               "type 99"},
        Change{"OtherNameOfAWarning", Checks, [](json* f) { f->at("checks").at("warnings")[0]["type"] = "ODD"; },
               "no EvaluationFinding"}),
    [](const auto& table) { return table.param.name; });

TEST_P(FindingTable, IsTakenOrNamesWhatIsWrong) {
  json finding = GetParam().of();
  GetParam().make(&finding);
  const absl::StatusOr<ham::v1::EvaluationFinding> parsed = ParseFinding(finding);
  if (GetParam().says == nullptr) {
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    return;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(parsed.status())) << parsed.status();
  EXPECT_NE(parsed.status().message().find(GetParam().says), std::string::npos) << parsed.status();
}

// As the trainer writes them: float widened to double, in the fewest digits.
TEST(Finding, MarginsKeepTheirBits) {
  using Limits = std::numeric_limits<float>;
  for (const float margin : {0.1F, -0.0F, 1.0F / 3, Limits::max(), Limits::lowest(), Limits::min(),
                             Limits::denorm_min(), -1.17549421e-38F, Limits::infinity(), 16777217.0F}) {
    json finding = Block();
    json value = static_cast<double>(margin);
    if (std::isinf(margin)) value = "Infinity";
    finding["block"]["margins"][1] = value;
    const absl::StatusOr<ham::v1::EvaluationFinding> parsed = ParseFinding(json::parse(finding.dump()));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(std::bit_cast<uint32_t>(parsed->block().margins(1)), std::bit_cast<uint32_t>(margin)) << margin;
  }
}

}  // namespace
}  // namespace ham::agent
