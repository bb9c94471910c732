#include "worker/trainer/evaluation/pool_rank.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "proto/evaluation/outcome_warnings.h"
#include "proto/evaluation/record_file.h"
#include "proto/evaluation/record_json.h"
#include "tests/support/seed.h"
#include "tests/support/toy_evaluation.h"
#include "worker/trainer/evaluation/record_run.h"

namespace ham::trainer {
namespace {

using ham::testing::ToyEvaluateSpecJson;
using nlohmann::json;
using ::testing::HasSubstr;

// One network, and its record by `ham-trainer evaluate`.
struct World {
  World() {
    ham::testing::WriteToyDataSet(data(), 64);
    weights = ham::testing::TrainToyNetwork(data(), folder / "run");
    EvaluationJob job;
    job.setup.weights = weights;
    job.setup.data = "fashion-mnist";
    job.setup.data_root = data();
    job.rows = 45;
    job.epsilon = "0.25";
    job.attacks = "pgd:steps=3:step_size=0.05:restarts=2:loss=margin,apgd:steps=12,square:steps=60";
    job.seed = 18446744073709551615U;
    job.record = folder / "record.json";
    const absl::Status made = RunEvaluation(job);
    EXPECT_TRUE(made.ok()) << made;
    const auto file = ReadRecordFile(job.record);
    EXPECT_TRUE(file.ok()) << file.status();
    record = file->record;
  }
  std::string data() const { return folder / "data"; }

  ham::testing::TemporaryDirectory folder;
  std::string weights;
  EvaluationRecord record;
};

class PoolRankTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { world_ = std::make_unique<World>(); }
  static void TearDownTestSuite() { world_.reset(); }

  PoolRank RankOf(const EvaluateSpec& spec) const { return {spec, weights_, world_->data(), "", 1}; }
  // Runs it until `answer` (of each finding) returns false, or an error comes.
  absl::Status Run(const std::function<bool(const json&)>& answer) {
    const auto spec = ParseEvaluateSpec(spec_);
    if (!spec.ok()) return spec.status();
    return RunPoolRank(RankOf(*spec), nullptr, queue_,
                       {.progress =
                            [&](int64_t blocks) {
                              ticks_.push_back(blocks);
                              return absl::OkStatus();
                            },
                        .finding =
                            [&](const json& finding) {
                              return answer(json::parse(finding.dump())) ? absl::OkStatus()
                                                                         : absl::CancelledError("enough");
                            }});
  }
  // Of one block that it gets.
  absl::Status RunOn(const WorkBlock& block) {
    queue_.Replace({block});
    return Run([](const json& finding) { return !finding.contains("block") && !finding.contains("checks"); });
  }

  static std::unique_ptr<World> world_;
  json spec_ = ToyEvaluateSpecJson();
  std::string weights_ = world_->weights;
  BlockQueue queue_;
  std::vector<int64_t> ticks_;  // blocks done at each
};

std::unique_ptr<World> PoolRankTest::world_;

FinishedBlock FinishedOf(const json& block, const std::vector<int32_t>& labels) {
  FinishedBlock out{{block.at("stage"), block.at("rows")},
                    {},
                    block.at("seconds"),
                    block.at("forward_passes"),
                    block.at("gradient_passes")};
  for (size_t i = 0; i < out.block.rows.size(); ++i) {
    const int32_t prediction = block.at("predictions")[i];
    out.outcomes.push_back({prediction != labels[out.block.rows[i]], prediction, block.at("margins")[i].get<float>()});
  }
  return out;
}

// What the coordinator does: any blocks, in any order, some of them given twice.
class ScriptedPool {
 public:
  explicit ScriptedPool(BlockQueue* queue) : queue_(queue) {}

  // False once it knows all.
  bool Take(const json& finding) {
    if (finding.contains("inputs")) {
      record_ = *ReadRecordJson(json::parse(finding.at("inputs").get<std::string>()));
      plan_ = std::make_unique<EvaluationPlan>(record_.samples.labels, static_cast<int32_t>(record_.attacks.size()));
    } else if (finding.contains("block")) {
      const FinishedBlock block = FinishedOf(finding.at("block"), record_.samples.labels);
      const absl::Status status = plan_->Finish(block.block, block.outcomes);
      EXPECT_TRUE(status.ok()) << status;
      std::erase(given_, block.block);
      if (block.block.stage != kCleanStage) {
        record_.attacks[block.block.stage].forward_passes += block.forward_passes;
        record_.attacks[block.block.stage].gradient_passes += block.gradient_passes;
      }
    } else {
      for (const json& warning : finding.at("checks").at("warnings")) warnings_.push_back(warning.dump());
      return false;
    }
    Give();
    return true;
  }
  EvaluationRecord Record() {
    record_.samples = plan_->outcomes();
    return record_;
  }
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  void Give() {
    while (given_.size() < 3) {
      const auto block = plan_->Take(1 + random_() % 17);
      if (!block) break;
      given_.push_back(*block);
    }
    std::shuffle(given_.begin(), given_.end(), random_);
    if (plan_->done()) given_ = {{static_cast<int32_t>(record_.attacks.size()), CheckedRows(plan_->outcomes())}};
    queue_->Replace(given_);
  }

  BlockQueue* const queue_;
  std::mt19937 random_{static_cast<uint32_t>(ham::testing::TestSeed())};
  EvaluationRecord record_;
  std::unique_ptr<EvaluationPlan> plan_;
  std::vector<WorkBlock> given_;
  std::vector<std::string> warnings_;
};

TEST_F(PoolRankTest, ComesToTheRecordOfEvaluate) {
  ScriptedPool pool(&queue_);
  const absl::Status end = Run([&](const json& finding) { return pool.Take(finding); });
  EXPECT_TRUE(absl::IsCancelled(end)) << end;
  EvaluationRecord record = pool.Record(), other = world_->record;
  // It has something to tell.
  EXPECT_GT(other.figures.clean_accuracy.value, other.figures.robust_accuracy.value);
  std::vector<std::string> warnings;
  const size_t of_outcomes = OutcomeWarnings(other).size();
  for (size_t i = 0; i + of_outcomes < other.warnings.size(); ++i) {
    warnings.push_back(
        json({{"type", WarningTypeName(other.warnings[i].type)}, {"message", other.warnings[i].message}}).dump());
  }
  EXPECT_EQ(pool.warnings(), warnings);
  record.warnings = other.warnings;
  record.model.source = other.model.source;
  for (size_t a = 0; a < other.attacks.size(); ++a) record.attacks[a].seconds = other.attacks[a].seconds;
  const auto made = MakeRecord(record);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(RecordText(*made), RecordText(other));
}

TEST_F(PoolRankTest, FirstSaysWhatIsEvaluated) {
  std::vector<json> findings;
  const absl::Status end = Run([&](const json& finding) {
    findings.push_back(finding);
    return false;
  });
  EXPECT_TRUE(absl::IsCancelled(end)) << end;
  ASSERT_EQ(findings.size(), 1);
  const auto record = ReadRecordJson(json::parse(findings[0].at("inputs").get<std::string>()));
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->model.source, "");
  EXPECT_EQ(record->samples.clean_predictions, record->samples.labels);
  EXPECT_EQ(record->samples.broken_by, std::vector<int32_t>(45, kNotBroken));
  EXPECT_TRUE(record->warnings.empty());
}

TEST_F(PoolRankTest, TicksWithEachPass) {
  EXPECT_TRUE(absl::IsCancelled(RunOn({0, {3, 4, 9}})));
  EXPECT_GE(ticks_.size(), 1 + 2 * 3);  // before it, and each step of both restarts
  ticks_.clear();
  EXPECT_TRUE(absl::IsCancelled(RunOn({3, {3, 4, 9}})));
  EXPECT_GE(ticks_.size(), 7 + 2 + 3 + 4);  // passes of the checks, of large balls, of the first attack
}

TEST_F(PoolRankTest, TicksWithoutWork) {
  int ticks = 0;
  const absl::Status end = RunPoolRank(
      RankOf(*ParseEvaluateSpec(spec_)), nullptr, queue_,
      {.progress = [&](int64_t) { return ++ticks == 2 ? absl::CancelledError("enough") : absl::OkStatus(); },
       .finding = [](const json&) { return absl::OkStatus(); }});
  EXPECT_TRUE(absl::IsCancelled(end)) << end;
}

TEST_F(PoolRankTest, ABlockThatItDoesNotHaveIsAnError) {
  for (const WorkBlock& block : std::vector<WorkBlock>{
           {-1, {44, 45}}, {0, {45}}, {3, {45}}, {4, {0}}, {4, {}}, {0, {}}, {-1, {}}, {0, {5, 5}}, {0, {5, 4}}}) {
    const absl::Status status = RunOn(block);
    EXPECT_TRUE(absl::IsInternal(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("stage ", block.stage)));
  }
  EXPECT_TRUE(absl::IsCancelled(RunOn({-1, {44}})));
  EXPECT_TRUE(absl::IsCancelled(RunOn({3, {}})));
}

TEST_F(PoolRankTest, WrongSpecsNameTheirField) {
  const auto error_of = [this](const char* path, const json& value) {
    spec_ = ToyEvaluateSpecJson();
    spec_[json::json_pointer(path)] = value;
    const absl::Status status = Run([](const json&) { return false; });
    EXPECT_TRUE(absl::IsInvalidArgument(status) || absl::IsNotFound(status)) << path << ": " << status;
    return std::string(status.message());
  };
  EXPECT_THAT(error_of("/evaluate/data/rows", 65), HasSubstr("evaluate.data.rows is 65, but fashion-mnist has 64"));
  EXPECT_THAT(error_of("/evaluate/data/name", "cifar-10"), HasSubstr("cifar-10"));
  EXPECT_THAT(error_of("/evaluate/model/extra_block", true), HasSubstr("evaluate.model.extra_block is true"));
  EXPECT_THAT(error_of("/evaluate/model/name", "cnn-32-64"), HasSubstr("weights.safetensors"));
  EXPECT_THAT(error_of("/evaluate/more", 1), HasSubstr("evaluate.more is not known"));
  json targeted = ToyEvaluateSpecJson()["evaluate"]["suite"]["attacks"][1];
  targeted.update({{"name", "apgd-t"}, {"targets", 10}});
  EXPECT_THAT(error_of("/evaluate/suite/attacks/0", targeted), HasSubstr("evaluate.suite.attacks"));
  weights_ = world_->folder / "nothing";
  EXPECT_THAT(error_of("/evaluate/data/rows", 0), HasSubstr("nothing"));
}

TEST_F(PoolRankTest, OutputsThatAreNoNumbersAreTheUsersFault) {
  weights_ = world_->folder / "broken.safetensors";
  std::string bytes = ham::testing::ReadTestFile(world_->weights);
  std::fill(bytes.end() - 8, bytes.end(), '\xff');  // NaN, in whatever tensor is last
  ham::testing::WriteTestFile(weights_, bytes);
  const absl::Status status = RunOn({-1, {0, 1, 2}});
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("is not finite"));
}

TEST_F(PoolRankTest, CountsBlocks) {
  queue_.Replace({{-1, {1}}, {-1, {0}}, {0, {7}}});
  EXPECT_TRUE(absl::IsCancelled(
      Run([](const json& finding) { return !finding.contains("block") || finding.at("block").at("stage") == -1; })));
  EXPECT_EQ(ticks_.front(), 0);
  EXPECT_EQ(ticks_.back(), 2);
}

TEST_F(PoolRankTest, AnAgentThatTakesNoFindingEndsIt) {
  const absl::Status status = RunPoolRank(RankOf(*ParseEvaluateSpec(spec_)), nullptr, queue_,
                                          {.progress = [](int64_t) { return absl::OkStatus(); },
                                           .finding = [](const json&) { return absl::UnavailableError("gone"); }});
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
}

}  // namespace
}  // namespace ham::trainer
