#include "server/evaluation_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <utility>

#include <nlohmann/json.hpp>
#include "tests/server/made_findings.h"
#include "tests/support/seed.h"

namespace ham::server {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr absl::Duration kNow = absl::Hours(1);

void Must(EvaluationPool& pool, const EvaluationFinding& finding) {
  const absl::Status status = pool.Apply(finding);
  EXPECT_TRUE(status.ok()) << status;
}

TEST(EvaluationPoolTest, GivesNothingBeforeARankHasSaidWhatIsEvaluated) {
  EvaluationPool pool(Spec());
  pool.Retain(1, {0});
  EXPECT_FALSE(pool.HasWorkFor(0, kNow));
  EXPECT_THAT(pool.WorkOf(0, kNow), IsEmpty());
  EXPECT_FALSE(pool.Metrics());
  Must(pool, Said(Inputs()));
  EXPECT_TRUE(pool.HasWorkFor(0, kNow));
  EXPECT_FALSE(pool.HasWorkFor(1, kNow));
  EXPECT_THAT(pool.WorkOf(1, kNow), IsEmpty());
  EXPECT_FALSE(pool.Metrics()) << "no outcome yet";
}

TEST(EvaluationPoolTest, ComesToTheSameRecordWhateverRanksDo) {
  std::mt19937 random(ham::testing::TestSeed());
  for (int round = 0; round < 100; ++round) {
    auto pool = std::make_unique<EvaluationPool>(Spec());
    std::vector<EvaluationFinding> log = {Said(Inputs())};
    Must(*pool, log[0]);
    std::map<int, std::vector<WorkBlock>> at_work;  // what each rank was told last
    int attempt = 1, next_rank = 0;
    std::set<int> ranks;
    while (!pool->done()) {
      const auto any_rank = [&] { return *std::next(ranks.begin(), random() % ranks.size()); };
      const auto dice = random() % 20;
      if (ranks.empty() || dice == 0) {
        ranks.insert(next_rank++);
      } else if (dice == 1) {
        const int rank = any_rank();
        ranks.erase(rank);
        at_work.erase(rank);
      } else if (dice == 2) {  // the coordinator starts anew: ranks go on with what they had
        pool = std::make_unique<EvaluationPool>(Spec());
        for (const EvaluationFinding& finding : log) Must(*pool, finding);
      } else if (dice == 3) {
        ++attempt;
        ranks = {0};
        next_rank = 1;
        at_work.clear();
      } else {
        const int rank = any_rank();
        std::vector<WorkBlock>& work = at_work[rank];
        if (work.empty() || random() % 2 == 0) {
          pool->Retain(attempt, ranks);
          work = pool->WorkOf(rank, kNow);
          EXPECT_LE(work.size(), 2u);
          EXPECT_EQ(pool->WorkOf(rank, kNow), work);
        } else {
          log.push_back(DoneWith(work[0]));
          Must(*pool, log.back());
          work.erase(work.begin());
        }
      }
      pool->Retain(attempt, ranks);
    }
    const EvaluationRecord record = pool->Record();
    const EvaluationOutcomes made = ham::testing::MadeOutcomes();
    EXPECT_EQ(record.samples.clean_predictions, made.clean_predictions);
    EXPECT_EQ(record.samples.broken_by, made.broken_by);
    EXPECT_EQ(record.samples.attack_predictions, made.attack_predictions);
    EXPECT_EQ(record.samples.margins, made.margins);
    ASSERT_GE(record.warnings.size(), 2u);
    EXPECT_EQ(record.warnings.front().type, WarningType::kZeroGradients);
    EXPECT_EQ(record.warnings.back().type, WarningType::kFewerTargets) << "follows from the attacks";
    EXPECT_TRUE(MakeRecord(record).ok());
    EvaluationPool again(Spec());
    for (const EvaluationFinding& finding : log) Must(again, finding);
    EXPECT_EQ(RecordJson(again.Record()), RecordJson(record));
  }
}

TEST(EvaluationPoolTest, GivesTheWorkOfALostRankToOthers) {
  EvaluationPool pool(Spec());
  Must(pool, Said(Inputs()));
  pool.Retain(1, {0, 1});
  const std::vector<WorkBlock> lost = pool.WorkOf(0, kNow);
  ASSERT_THAT(lost, SizeIs(1)) << "ten rows are less than one block";
  EXPECT_THAT(pool.WorkOf(1, kNow), IsEmpty());
  EXPECT_FALSE(pool.HasWorkFor(1, kNow));
  pool.Retain(1, {1});
  EXPECT_TRUE(pool.HasWorkFor(1, kNow));
  EXPECT_EQ(pool.WorkOf(1, kNow), lost);
  pool.Retain(2, {1});  // another rank of that number
  EXPECT_TRUE(pool.HasWorkFor(1, kNow));
}

TEST(EvaluationPoolTest, MakesBlocksSmallerTowardsTheEndOfAStage) {
  EvaluationRecord inputs = Inputs();
  const size_t rows = 1000;
  inputs.data.row_ids.resize(rows);
  for (uint32_t i = 0; i < rows; ++i) inputs.data.row_ids[i] = i;
  inputs.samples = EvaluationPlan(std::vector<int32_t>(rows, 1), 2).outcomes();
  EvaluationPool pool(Spec());
  Must(pool, Said(inputs));
  pool.Retain(1, {0, 1});
  std::vector<size_t> sizes;
  for (int turn = 0; !pool.WorkOf(turn % 2, kNow).empty() && pool.WorkOf(turn % 2, kNow)[0].stage == kCleanStage;
       ++turn) {
    const WorkBlock work = pool.WorkOf(turn % 2, kNow)[0];
    sizes.push_back(work.rows.size());
    EvaluationFinding finding;
    finding.mutable_block()->set_stage(kCleanStage);
    for (const uint32_t row : work.rows) {
      finding.mutable_block()->add_rows(row);
      finding.mutable_block()->add_predictions(1);
      finding.mutable_block()->add_margins(1);
    }
    Must(pool, finding);
  }
  EXPECT_EQ(sizes.front(), 128u);
  EXPECT_LE(sizes.back(), 16u);
  EXPECT_TRUE(std::is_sorted(sizes.rbegin(), sizes.rend()));
}

TEST(EvaluationPoolTest, LetsOneRankCheckTheNetworkAtTheEnd) {
  EvaluationPool pool(Spec());
  Must(pool, Said(Inputs()));
  pool.Retain(1, {0, 1});
  while (pool.WorkOf(0, kNow)[0].stage < 2) Must(pool, Found(pool.WorkOf(0, kNow)[0]));
  EXPECT_FALSE(pool.done());
  EXPECT_EQ(pool.WorkOf(0, kNow), (std::vector<WorkBlock>{{2, {0, 1, 2, 4, 5, 6, 7, 8}}})) << "those classified right";
  EXPECT_THAT(pool.WorkOf(1, kNow), IsEmpty());
  pool.Retain(1, {1});
  EXPECT_THAT(pool.WorkOf(1, kNow), SizeIs(1));
  Must(pool, Checked());
  EXPECT_TRUE(pool.done());
  EXPECT_THAT(pool.WorkOf(1, kNow), IsEmpty());
  EvaluationFinding other;
  other.mutable_checks();
  Must(pool, other);  // of the lost rank
  EXPECT_EQ(pool.Record().warnings[0].type, WarningType::kZeroGradients);
}

TEST(EvaluationPoolTest, TellsUpperBoundsThatFall) {
  EvaluationPool pool(Spec());
  Must(pool, Said(Inputs()));
  pool.Retain(1, {0, 1});
  Must(pool, Found({kCleanStage, {0, 1, 2, 3, 4}}));
  ham::v1::EvaluationMetrics metrics = *pool.Metrics();
  EXPECT_EQ(metrics.rows(), 10);
  EXPECT_DOUBLE_EQ(metrics.clean_accuracy(), 0.9);
  EXPECT_EQ(metrics.progress().stage(), "clean");
  EXPECT_EQ(metrics.progress().rows_left(), 5);
  EXPECT_EQ(metrics.progress().ranks(), 2);
  EXPECT_FALSE(metrics.progress().has_seconds_left());
  EXPECT_FALSE(pool.stage_ended());
  Must(pool, Found({kCleanStage, {5, 6, 7, 8, 9}}));
  EXPECT_TRUE(pool.stage_ended());
  Must(pool, Found({0, {0, 1, 2, 4}}));
  metrics = *pool.Metrics();
  ASSERT_EQ(metrics.suites_size(), 1);
  EXPECT_EQ(metrics.suites(0).name(), "both");
  EXPECT_DOUBLE_EQ(metrics.suites(0).robust_accuracy(), 0.7);
  EXPECT_EQ(metrics.suites(0).worst_class_name(), "ant");
  EXPECT_DOUBLE_EQ(metrics.suites(0).worst_class_robust_accuracy(), 0.5);
  EXPECT_EQ(metrics.progress().stage(), "pgd");
  EXPECT_GT(metrics.progress().seconds_left(), 0);
  EXPECT_FALSE(metrics.final());
  while (!pool.done()) Must(pool, DoneWith(pool.WorkOf(0, kNow)[0]));
  metrics = *pool.Metrics();
  EXPECT_DOUBLE_EQ(metrics.suites(0).robust_accuracy(), 0.5);
  EXPECT_FALSE(metrics.has_progress());
  EXPECT_TRUE(metrics.final());
}

TEST(EvaluationPoolTest, LetsAnIdleRankTryWhatAnotherShouldHaveDoneLongAgo) {
  EvaluationPool pool(Spec());
  Must(pool, Said(Inputs()));
  pool.Retain(1, {0, 1});
  const std::vector<WorkBlock> stuck = pool.WorkOf(0, kNow);
  const absl::Duration early = kNow + absl::Minutes(1), late = early + absl::Seconds(1);
  EXPECT_FALSE(pool.HasWorkFor(1, early));
  EXPECT_THAT(pool.WorkOf(1, early), IsEmpty());
  EXPECT_TRUE(pool.HasWorkFor(1, late));
  EXPECT_EQ(pool.WorkOf(1, late), stuck);
  EXPECT_EQ(pool.WorkOf(0, late), stuck) << "it may still";
  Must(pool, Found(stuck[0]));
  EXPECT_EQ(pool.WorkOf(1, late)[0].stage, 0);
  EXPECT_THAT(pool.WorkOf(0, late), IsEmpty());
  // What is slow by nature is not late: a row of pgd takes 100 seconds.
  const WorkBlock work = pool.WorkOf(1, late)[0];
  EvaluationFinding some = Found({0, {work.rows[0]}});
  some.mutable_block()->set_seconds(100);
  Must(pool, some);
  Must(pool, Found({1, {work.rows[0]}}));
  const absl::Duration usual = absl::Seconds(100.0 * static_cast<double>(work.rows.size()));
  EXPECT_FALSE(pool.HasWorkFor(0, late + 5 * usual));
  EXPECT_TRUE(pool.HasWorkFor(0, late + 6 * usual));
}

TEST(EvaluationPoolTest, CountsWhatWasDoneTwiceOnce) {
  EvaluationPool pool(Spec());
  Must(pool, Said(Inputs()));
  Must(pool, Found({kCleanStage, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}}));
  Must(pool, Found({0, {0, 1}}));
  Must(pool, Found({0, {0, 1}}));
  Must(pool, Found({0, {1, 2}}));
  pool.Retain(1, {0});
  while (!pool.done()) Must(pool, DoneWith(pool.WorkOf(0, kNow)[0]));
  const EvaluationRecord record = pool.Record();
  EXPECT_EQ(record.attacks[0].forward_passes, 250u) << "100, half of 100, and 100 of the rest";
  EXPECT_DOUBLE_EQ(record.attacks[0].seconds, 3.75);
}

TEST(EvaluationPoolTest, NamesAsManyDevicesAsARecordTakes) {
  EvaluationPool pool(Spec());
  EvaluationRecord inputs = Inputs();
  for (int i = 0; i < 20; ++i) {
    inputs.device = std::string(90, static_cast<char>('a' + i));
    Must(pool, Said(inputs));
  }
  pool.Retain(1, {0});
  while (!pool.done()) Must(pool, DoneWith(pool.WorkOf(0, kNow)[0]));
  EXPECT_THAT(pool.Record().device, HasSubstr("; and 11 others"));
  EXPECT_TRUE(MakeRecord(pool.Record()).ok());
}

TEST(EvaluationPoolTest, NamesAllDevicesThatTookPart) {
  EvaluationPool pool(Spec());
  EvaluationRecord inputs = Inputs();
  Must(pool, Said(inputs));
  inputs.device = "another CPU";
  Must(pool, Said(inputs));
  Must(pool, Said(inputs));
  pool.Retain(1, {0});
  while (!pool.done()) Must(pool, DoneWith(pool.WorkOf(0, kNow)[0]));
  EXPECT_EQ(pool.Record().device, "another CPU; toy CPU, avx2");
}

class RefusalTest : public ::testing::Test {
 protected:
  // After `before_`. One refusal is the end of a pool.
  void Refuses(const EvaluationFinding& finding, const std::string& text) {
    EvaluationPool pool(Spec());
    for (const EvaluationFinding& earlier : before_) Must(pool, earlier);
    const absl::Status status = pool.Apply(finding);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
    EXPECT_LT(status.message().size(), 700u);
    EXPECT_EQ(pool.status(), status);
    EXPECT_EQ(pool.Apply(Said(Inputs())), status) << "it is not forgotten";
    pool.Retain(1, {0});
    EXPECT_THAT(pool.WorkOf(0, kNow), IsEmpty());
    EXPECT_FALSE(pool.done());
  }
  std::vector<EvaluationFinding> before_;
};

TEST_F(RefusalTest, OfInputsThatAreNotTheSpecs) {
  Refuses(EvaluationFinding(), "unknown kind");
  Refuses(Found({kCleanStage, {0}}), "before the inputs");
  Refuses(Checked(), "before all images");
  EvaluationFinding device;
  device.set_device("CPU");
  Refuses(device, "before the inputs");
  for (const std::string& text : {std::string("{"), std::string("{}"), "{\"" + std::string(4000, 'x') + "\":1}"}) {
    EvaluationFinding finding;
    finding.set_inputs(text);
    Refuses(finding, "contradicts");
  }
  using Change = void (*)(EvaluationRecord&);
  for (const Change change :
       std::initializer_list<Change>{[](EvaluationRecord& inputs) { inputs.seed = 1; },
                                     [](EvaluationRecord& inputs) { inputs.attacks.pop_back(); },
                                     [](EvaluationRecord& inputs) { inputs.attacks[0].steps = 1; },
                                     [](EvaluationRecord& inputs) { inputs.attacks[0].loss = "dlr"; },
                                     [](EvaluationRecord& inputs) { inputs.attacks[0].step_size = 0.5; },
                                     [](EvaluationRecord& inputs) { inputs.attacks[1].targets = 2; },
                                     [](EvaluationRecord& inputs) { std::swap(inputs.attacks[0], inputs.attacks[1]); },
                                     [](EvaluationRecord& inputs) { inputs.data.split = "train"; },
                                     [](EvaluationRecord& inputs) { inputs.data.image_size = 160; },
                                     [](EvaluationRecord& inputs) { inputs.model.activation = "relu"; },
                                     [](EvaluationRecord& inputs) { inputs.data.row_ids.back() += 1; },
                                     [](EvaluationRecord& inputs) { inputs.threat.epsilon /= 2; }}) {
    EvaluationRecord inputs = Inputs();
    change(inputs);
    Refuses(Said(inputs), "not those of the spec");
  }
  EvaluationRecord inputs = Inputs();
  inputs.samples.labels[3] = 4;
  Refuses(Said(inputs), "contradicts");
  inputs = Inputs();
  inputs.samples = ham::testing::MadeOutcomes();
  Refuses(Said(inputs), "have outcomes");
  inputs = Inputs();
  inputs.data.row_ids.pop_back();
  Refuses(Said(inputs), "contradicts");
  inputs = Inputs();
  inputs.data.class_names.assign(900'000, "");
  Refuses(Said(inputs), "contradicts");
  inputs = Inputs();
  inputs.build_id.assign(5000, 'b');
  Refuses(Said(inputs), "contradicts");
}

TEST_F(RefusalTest, OfInputsThatAreNotThoseOfTheOthers) {
  before_ = {Said(Inputs()), Found({kCleanStage, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}}), Found({0, {0, 1}}), Said(Inputs())};
  EvaluationRecord inputs = Inputs();
  inputs.build_id = "fedcba987654";
  Refuses(Said(inputs), "build_id \"0123456789ab\" and \"fedcba987654\"");
  inputs = Inputs();
  inputs.data.digest = std::string(64, 'c');
  Refuses(Said(inputs), "data.digest");
  inputs = Inputs();
  inputs.samples.labels[0] = inputs.samples.clean_predictions[0] = inputs.samples.attack_predictions[0] = 1;
  Refuses(Said(inputs), "samples.labels");
}

TEST_F(RefusalTest, OfBlocksThatCannotBe) {
  before_ = {Said(Inputs())};
  Refuses(Found({0, {0, 1}}), "not at stage 0");
  for (const int32_t stage : {100'000'000, -1000, 2, 7}) Refuses(Found({stage, {}}), "is of stage");
  Refuses(Found({kCleanStage, {}}), "a block of 0 rows");
  const auto refuses = [&](const char* text, void (*change)(ham::v1::EvaluationBlock&)) {
    EvaluationFinding finding = Found({kCleanStage, {0, 1}});
    change(*finding.mutable_block());
    Refuses(finding, text);
  };
  refuses("one outcome for each", [](auto& block) { block.add_margins(1); });
  refuses("no row 10", [](auto& block) { block.set_rows(1, 10); });
  refuses("no class", [](auto& block) { block.set_predictions(1, 4); });
  refuses("no class", [](auto& block) { block.set_predictions(1, -1); });
  refuses("contradicts", [](auto& block) { block.set_rows(1, 0); });
  refuses("seconds", [](auto& block) { block.set_seconds(-1); });
  refuses("seconds", [](auto& block) { block.set_seconds(std::numeric_limits<double>::quiet_NaN()); });
  refuses("margin", [](auto& block) { block.set_margins(1, std::numeric_limits<float>::quiet_NaN()); });
  refuses("margin", [](auto& block) { block.set_margins(1, -1); });
}

TEST_F(RefusalTest, OfChecksThatNoRecordTakes) {
  EvaluationPool pool(Spec());
  before_ = {Said(Inputs())};
  Must(pool, before_[0]);
  pool.Retain(1, {0});
  while (pool.WorkOf(0, kNow)[0].stage < 2) {
    before_.push_back(Found(pool.WorkOf(0, kNow)[0]));
    Must(pool, before_.back());
  }
  EvaluationFinding finding = Checked();
  finding.mutable_checks()->mutable_warnings(0)->set_type(ham::v1::EvaluationWarning::TYPE_UNSPECIFIED);
  Refuses(finding, "unknown");
  finding = Checked();
  finding.mutable_checks()->mutable_warnings(0)->set_message(std::string(100'000, 'x'));
  Refuses(finding, "warnings[0].message");
}

}  // namespace
}  // namespace ham::server
