#include "worker/trainer/trainer.h"

#include <cmath>
#include <limits>
#include <list>
#include <map>
#include <numeric>
#include <set>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/max.h>
#include <ATen/ops/sum.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/synchronization/mutex.h"
#include "tests/support/run_ranks.h"
#include "tests/support/toy_images.h"
#include "worker/trainer/counter_rng.h"
#include "worker/trainer/models/networks.h"

namespace ham::trainer {
namespace {

using ham::testing::RunRanks;
using ham::testing::ToyImages;
using ham::testing::ToyModel;
using ham::testing::ToySpec;
using nlohmann::json;
using ::testing::HasSubstr;

// By weights that are finite themselves: of every row that is not of class 0.
void MakeLossInfinite(Checkpoint* checkpoint) {
  checkpoint->state["output_bias"].fill_(-3e38F);
  checkpoint->state["output_bias"].mutable_data_ptr<float>()[0] = 3e38F;
}

class RecordingObserver : public RunObserver {
 public:
  absl::Status OnTick(const Position& position) override {
    phases.insert(position.phase);
    return tick_result;
  }
  absl::Status OnMetric(const json& point) override {
    points.push_back(point);
    return absl::OkStatus();
  }
  absl::Status OnCheckpoint(Checkpoint checkpoint) override {
    checkpoints.push_back(std::move(checkpoint));
    return static_cast<int>(checkpoints.size()) == stop_after ? absl::CancelledError("stopped by the test")
                                                              : absl::OkStatus();
  }
  absl::Status OnScores(const Scores& of) override {
    scores.push_back(of);
    return scores_result;
  }
  std::vector<json> Kind(const std::string& kind) const {
    std::vector<json> out;
    for (const json& point : points) {
      if (point.contains(kind)) out.push_back(point);
    }
    return out;
  }

  std::set<std::string> phases;
  std::vector<json> points;
  std::vector<Checkpoint> checkpoints;
  std::vector<Scores> scores;
  absl::Status tick_result, scores_result;
  int stop_after = -1;
};

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() { at::set_num_threads(1); }

  Trainer Make(Collective& ranks, RunObserver& observer) {
    absl::MutexLock lock(&mutex_);  // ranks are threads
    return Trainer(spec_, *model_, data_.emplace_back(*ChooseRows(spec_.data, train_, test_)), ranks, observer);
  }

  // The weights after a run on `world_size` ranks; rank 0's observer in `observer`.
  at::Tensor RunToEnd(int world_size, RecordingObserver* observer) {
    at::Tensor weights;
    RunRanks(world_size, [&](Collective& ranks) {
      at::set_num_threads(1);
      RecordingObserver own;
      Trainer trainer = Make(ranks, own);
      ASSERT_TRUE(trainer.Run().ok());
      if (ranks.rank() == 0) {
        weights = trainer.weights().flat().clone();
        *observer = std::move(own);
      } else {
        EXPECT_TRUE(own.points.empty());
        EXPECT_TRUE(own.checkpoints.empty());
      }
    });
    return weights;
  }

  // A run resumed from `checkpoint` ends with these weights, bit for bit.
  void ExpectGoesOnTo(const at::Tensor& weights, const Checkpoint& checkpoint, RecordingObserver* after) {
    const auto local = MakeLocalCollective();
    Trainer resumed = Make(*local, *after);
    const absl::Status status = resumed.Restore(checkpoint);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_TRUE(resumed.Run().ok());
    EXPECT_TRUE(at::equal(resumed.weights().flat(), weights));
  }

  TrainSpec spec_ = ToySpec();
  ImageSet train_ = ToyImages(200, 1);
  const ImageSet test_ = ToyImages(120, 2);
  absl::Mutex mutex_;
  std::list<RunData> data_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Model> model_ = ToyModel();
};

TEST_F(TrainerTest, LearnsAndReports) {
  spec_.epochs = 8;
  spec_.method.mining_start_epoch = 5;
  RecordingObserver seen;
  RunToEnd(1, &seen);
  EXPECT_EQ(seen.phases, (std::set<std::string>{"first_step", "train", "save", "evaluate"}));
  EXPECT_EQ(seen.checkpoints.size(), 8);
  const auto epochs = seen.Kind("train");
  ASSERT_EQ(epochs.size(), 8);  // an epoch takes far less than two seconds
  EXPECT_EQ(epochs[3]["train"]["hard_share"], 1);
  EXPECT_LT(epochs[4]["train"]["hard_share"], 1);
  EXPECT_GT(epochs[4]["train"]["kept_share"], epochs[4]["train"]["hard_share"]);
  EXPECT_EQ(epochs[7]["iteration"], 40);
  EXPECT_EQ(epochs[7]["train"]["total_iterations"], 40);
  EXPECT_EQ(epochs[7]["train"]["iterations"], 5);
  const auto evaluations = seen.Kind("evaluation");
  ASSERT_EQ(evaluations.size(), 8);
  EXPECT_GT(evaluations[7]["evaluation"]["clean_accuracy"], 0.9);
  EXPECT_GT(evaluations[7]["evaluation"]["suites"][0]["robust_accuracy"], 0.6);
  EXPECT_EQ(evaluations[6]["evaluation"]["suites"].size(), 1);
  EXPECT_EQ(evaluations[7]["evaluation"]["suites"].size(), 2);
  EXPECT_EQ(evaluations[7]["evaluation"]["final"], true);
  ASSERT_EQ(seen.Kind("summary").size(), 1);
  EXPECT_EQ(seen.points.back()["summary"]["iterations"], 40);
  EXPECT_LT(seen.points.back()["summary"]["hard_share"], 1);
}

TEST_F(TrainerTest, SameSeedGivesTheSameBits) {
  RecordingObserver seen;
  const at::Tensor first = RunToEnd(1, &seen);
  EXPECT_TRUE(at::equal(first, RunToEnd(1, &seen)));
  spec_.seed = 8;
  EXPECT_FALSE(at::equal(first, RunToEnd(1, &seen)));
}

TEST_F(TrainerTest, WorldSizeChangesOnlyRounding) {
  for (const OptimizerKind kind : {OptimizerKind::kSgd, OptimizerKind::kAdam}) {
    spec_.optimizer.name = kind;
    spec_.optimizer.learning_rate = 0.001;
    spec_.epochs = 2;
    RecordingObserver one, two, three;
    const at::Tensor alone = RunToEnd(1, &one);
    // A sign near 0 may flip with rounding and move a pixel, hence not tighter.
    EXPECT_TRUE(at::allclose(RunToEnd(2, &two), alone, 1e-3, 1e-4));
    EXPECT_TRUE(at::allclose(RunToEnd(3, &three), alone, 1e-3, 1e-4));  // ragged: 8 rows in the last batch
    EXPECT_EQ(two.Kind("train")[0]["train"]["hard_share"], one.Kind("train")[0]["train"]["hard_share"]);
    EXPECT_NEAR(two.Kind("train")[0]["train"]["loss"].get<double>(),
                one.Kind("train")[0]["train"]["loss"].get<double>(), 1e-4);
  }
}

TEST_F(TrainerTest, MoreRanksThanRowsInTheLastBatch) {
  spec_.data.train_rows = 97;  // 48 + 48 + 1
  spec_.epochs = 1;
  RecordingObserver one, two;
  const at::Tensor alone = RunToEnd(1, &one);
  EXPECT_TRUE(at::allclose(RunToEnd(2, &two), alone, 1e-3, 1e-3));
}

// Without BatchNorm, and with choices that are made row by row.
TEST_F(TrainerTest, ABatchInPartsIsTheBatch) {
  spec_.precision = Precision::kFp64;
  spec_.data.train_rows = 49;  // 48 + 1: parts without a row
  spec_.method.mining_start_epoch = 2;
  RecordingObserver whole, parts;
  const at::Tensor expected = RunToEnd(1, &whole);
  spec_.accumulation_steps = 5;  // of 10, 10, 10, 10 and 8 rows
  for (const int ranks : {1, 3}) {
    spec_.method.balance_ranks = ranks > 1;  // rows of each part move
    const at::Tensor weights = RunToEnd(ranks, &parts);
    EXPECT_TRUE(at::allclose(weights, expected, 1e-9, 1e-11)) << (weights - expected).abs().max().item<double>();
    for (const char* counts : {"steps_to_boundary", "confidence_histogram", "per_class_hard_share", "kept_share"}) {
      EXPECT_EQ(whole.Kind("train")[2]["train"][counts], parts.Kind("train")[2]["train"][counts]) << counts;
    }
  }
}

// Parts in which no rank has a row, and parts of which mining leaves none, must not move running statistics.
TEST_F(TrainerTest, PartsWithBatchNormAreTheSameOnAnyNumberOfRanks) {
  model_ = MakePreActResNet18({.image = {1, 8, 8}, .classes = 4}, 8);
  spec_.precision = Precision::kFp64;
  spec_.data.train_rows = 49;
  spec_.method.mining_start_epoch = 1;
  spec_.method.retained_easy_share = 0;
  spec_.accumulation_steps = 16;  // of 3 rows; 15 of the last batch have none
  spec_.optimizer.name = OptimizerKind::kSgd;
  spec_.epochs = 1;
  for (const AttackBatchNorm mode : {AttackBatchNorm::kEvaluation, AttackBatchNorm::kTraining}) {
    spec_.attack.batch_norm = mode;
    RecordingObserver one, three;
    const at::Tensor alone = RunToEnd(1, &one);
    const at::Tensor together = RunToEnd(3, &three);
    EXPECT_TRUE(at::allclose(together, alone, 1e-9, 1e-11)) << (together - alone).abs().max().item<double>();
  }
}

// A network without BatchNorm says the same in training as under attack, so that the rows it has right are the same.
TEST_F(TrainerTest, DroppedRowsCountAsRightWhereTheyAre) {
  spec_.method.mining_start_epoch = 1;
  spec_.method.retained_easy_share = 1;
  const auto right = [&](double drop_share) {
    spec_.method.drop_share = drop_share;
    const auto local = MakeLocalCollective();
    RecordingObserver observer;
    Trainer trainer = Make(*local, observer);
    const auto report = trainer.Step(1, trainer.OrderOf(1), 0);
    EXPECT_TRUE(report.ok()) << report.status();
    return report->sums().counts.class_right;
  };
  const std::vector<int64_t> all = right(0);
  EXPECT_GT(std::accumulate(all.begin(), all.end(), int64_t{0}), 0);
  EXPECT_EQ(right(0.5), all);
}

// All that is new for images: mixed labels and a ball of another norm.
TEST_F(TrainerTest, MixedImagesInAnL2BallAreTheSameOnAnyNumberOfRanks) {
  spec_.precision = Precision::kFp64;
  spec_.data.augmentation = {.crop_padding = 1, .cutmix = 0.3};  // a flip would turn left into right
  spec_.epochs = 8;
  spec_.method.mining_start_epoch = 7;
  spec_.attack.norm = Norm::kL2;
  spec_.attack.epsilon = 0.3;
  spec_.attack.step_size = 0.1;
  spec_.evaluation.suites[0] = {"l2", 2, {{AttackLoss::kMargin, 10, 0.5, 1, true}}, Norm::kL2};
  spec_.data.validation_share = 0.1;
  RecordingObserver one, two;
  const at::Tensor alone = RunToEnd(1, &one);
  EXPECT_TRUE(at::allclose(RunToEnd(2, &two), alone, 1e-9, 1e-11));
  const json evaluation = one.Kind("evaluation").back()["evaluation"];
  EXPECT_EQ(evaluation["suites"][0]["norm"], "l2");
  EXPECT_GT(evaluation["clean_accuracy"], 0.5);
  EXPECT_LT(evaluation["suites"][0]["robust_accuracy"], evaluation["clean_accuracy"]);
  spec_.data.augmentation.cutmix = 0;
  EXPECT_FALSE(at::allclose(RunToEnd(1, &two), alone, 1e-3, 1e-3));
}

// The labels of 200 noisy rows are learned by heart at last.
TEST_F(TrainerTest, SaysThatItOverfitsOnceAndInACheckpointToo) {
  spec_.data.validation_share = 0.4;
  spec_.method.name = Method::kPgdAt;
  spec_.epochs = 4;
  RecordingObserver seen;
  RunToEnd(1, &seen);
  EXPECT_TRUE(seen.Kind("notice").empty());
  // A checkpoint whose run had seen better.
  Checkpoint checkpoint = seen.checkpoints[1];
  const int rows = seen.Kind("evaluation")[0]["evaluation"]["rows"];
  checkpoint.scalars["overfitting"].update({{"epoch", 1}, {"train", -1.0}, {"validation", rows}, {"below", 0}});
  const auto local = MakeLocalCollective();
  RecordingObserver after;
  Trainer resumed = Make(*local, after);
  ASSERT_TRUE(resumed.Restore(checkpoint).ok());
  ASSERT_TRUE(resumed.Run().ok());
  ASSERT_EQ(after.Kind("notice").size(), 1);
  EXPECT_EQ(after.Kind("notice")[0]["epoch"], 3);  // after the evaluations of epochs 2 and 3
  EXPECT_EQ(after.Kind("notice")[0]["notice"]["reason"], "ROBUST_OVERFITTING");
}

// BatchNorm over ranks, a batch that leaves ranks without a row, and every option that looks over all ranks.
TEST_F(TrainerTest, RanksAreOneRankInFloat64WithBatchNorm) {
  model_ = MakePreActResNet18({.image = {1, 8, 8}, .classes = 4}, 8);
  spec_.precision = Precision::kFp64;
  spec_.data.train_rows = 49;  // 48 + 1
  spec_.method.mining_start_epoch = 1;
  spec_.method.weight_mode = WeightMode::kFirstCross;
  spec_.method.retained_easy = RetainedEasy::kHighConfidence;
  spec_.method.drop_share = 0.2;
  spec_.class_bias.running_rate = 0.05;
  spec_.class_bias.fit_rounds = 2;
  spec_.data.validation_share = 0.1;
  spec_.evaluation.reestimate_batch_norm = true;
  spec_.label_smoothing = 0.1;
  spec_.optimizer.name = OptimizerKind::kSgd;
  spec_.epochs = 2;
  for (const AttackBatchNorm mode : {AttackBatchNorm::kEvaluation, AttackBatchNorm::kTraining}) {
    spec_.attack.batch_norm = mode;
    spec_.method.balance_ranks = mode == AttackBatchNorm::kTraining;  // it must be all the same
    RecordingObserver one, three;
    const at::Tensor alone = RunToEnd(1, &one);
    const at::Tensor together = RunToEnd(3, &three);
    EXPECT_TRUE(at::allclose(together, alone, 1e-9, 1e-11)) << (together - alone).abs().max().item<double>();
    for (const char* counts : {"steps_to_boundary", "confidence_histogram", "per_class_hard_share"}) {
      EXPECT_EQ(one.Kind("train")[1]["train"][counts], three.Kind("train")[1]["train"][counts]) << counts;
    }
    EXPECT_EQ(one.Kind("train")[0]["train"]["rank_skew"], 1);
    EXPECT_GT(three.Kind("train")[0]["train"]["rank_skew"], 1);
  }
}

// As above, in every combination with what looks at single rows.
TEST_F(TrainerTest, RowsThatMoveBetweenRanksGiveTheSame) {
  spec_.precision = Precision::kFp64;
  spec_.data.augmentation.cutmix = 0.5;
  spec_.data.train_rows = 49;
  spec_.method.mining_start_epoch = 1;
  spec_.method.retained_easy_share = 0.5;
  for (const WeightMode mode :
       {WeightMode::kEqual, WeightMode::kFirstCross, WeightMode::kDeltaMax, WeightMode::kKappa}) {
    spec_.method.weight_mode = mode;
    spec_.method.drop_share = mode == WeightMode::kFirstCross || mode == WeightMode::kDeltaMax ? 0.2 : 0;
    spec_.method.balance_ranks = false;
    RecordingObserver one, apart, even;
    const at::Tensor alone = RunToEnd(1, &one);
    RunToEnd(3, &apart);
    spec_.method.balance_ranks = true;
    const at::Tensor together = RunToEnd(3, &even);
    EXPECT_TRUE(at::allclose(together, alone, 1e-9, 1e-11)) << (together - alone).abs().max().item<double>();
    for (const char* counts : {"steps_to_boundary", "confidence_histogram", "per_class_hard_share", "kept_share"}) {
      EXPECT_EQ(one.Kind("train")[1]["train"][counts], even.Kind("train")[1]["train"][counts]) << counts;
    }
    EXPECT_LT(even.Kind("train")[1]["train"]["rank_skew"], apart.Kind("train")[1]["train"]["rank_skew"]);
  }
}

// Also for whoever has the exported file alone.
TEST_F(TrainerTest, FitsAClassBiasAtTheEndAndKeepsTheBest) {
  spec_.data.validation_share = 0.3;
  spec_.class_bias.fit_rounds = 4;
  spec_.class_bias.fit_step = 0.5;
  spec_.epochs = 1;
  RecordingObserver seen;
  RunToEnd(1, &seen);
  std::vector<double> scores;
  for (const json& point : seen.Kind("evaluation")) {
    const json& suite = point["evaluation"]["suites"][0];
    if (suite["name"] != "class-bias") continue;
    EXPECT_EQ(point["evaluation"]["split"], "validation");
    scores.push_back(suite["robust_accuracy"].get<double>() + suite["worst_class_robust_accuracy"].get<double>());
  }
  ASSERT_EQ(scores.size(), 5);
  const auto best = std::max_element(scores.begin(), scores.end()) - scores.begin();
  ASSERT_GT(best, 0) << "the toy has nothing to gain: the test shows nothing";
  const TensorMap& state = seen.checkpoints.back().state;
  EXPECT_GT(state.at("class_bias").abs().max().item<float>(), 0.3F);  // one round moves a class by 0.375 at least
  EXPECT_NEAR(state.at("class_bias").sum().item<float>(), 0, 1e-6);
  EXPECT_TRUE(at::equal(state.at("average.class_bias"), state.at("class_bias")));
  EXPECT_TRUE(
      at::equal(seen.checkpoints.back().model.at("fc2.bias"), state.at("output_bias") + state.at("class_bias")));
}

TEST_F(TrainerTest, EstimatesStatisticsOfAdversarialRowsBeforeAnEvaluation) {
  model_ = MakePreActResNet18({.image = {1, 8, 8}, .classes = 4}, 8);
  spec_.epochs = 2;
  RecordingObserver running, estimated;
  const at::Tensor plain = RunToEnd(1, &running);
  spec_.evaluation.reestimate_batch_norm = true;
  RunToEnd(1, &estimated);
  // Training does not see it; the network that is kept at the end has the estimate.
  const Checkpoint& first = estimated.checkpoints[0];
  EXPECT_TRUE(at::equal(first.parameters, running.checkpoints[0].parameters));
  EXPECT_TRUE(at::equal(estimated.checkpoints[1].model.at("bn.running_var"),
                        running.checkpoints[1].model.at("bn.running_var")));
  EXPECT_FALSE(at::equal(estimated.checkpoints[1].state.at("average.bn.running_var"),
                         running.checkpoints[1].state.at("average.bn.running_var")));
  EXPECT_NE(estimated.Kind("evaluation")[0]["evaluation"]["clean_accuracy"],
            running.Kind("evaluation")[0]["evaluation"]["clean_accuracy"]);
}

TEST_F(TrainerTest, ResumesBitForBitWithinAnEpoch) {
  spec_.checkpoint.every_iterations = 2;
  spec_.class_bias.running_rate = 0.05;
  spec_.data.validation_share = 0.1;
  RecordingObserver whole;
  const at::Tensor expected = RunToEnd(1, &whole);
  for (const size_t stop : {0, 1, 2, 4}) {
    SCOPED_TRACE(::testing::Message() << "after checkpoint " << stop);
    RecordingObserver after;
    ExpectGoesOnTo(expected, whole.checkpoints[stop], &after);
    json a = after.Kind("train").back()["train"], b = whole.Kind("train").back()["train"];
    for (const char* measured : {"attack_seconds", "train_seconds", "phase_seconds", "images_per_second"}) {
      a.erase(measured);
      b.erase(measured);
    }
    EXPECT_EQ(a, b);  // the points of a whole epoch, too
  }
}

TEST_F(TrainerTest, CountsTheFlopsOfItsRowsAndHoldsThemAgainstThePeak) {
  spec_.epochs = 2;
  spec_.method.mining_start_epoch = 2;
  const ModelFlops flops = model_->flops();
  const int64_t steps = spec_.attack.steps, mining_step = spec_.method.mining_step;
  for (const int world_size : {1, 3}) {
    SCOPED_TRACE(::testing::Message() << world_size << " ranks");
    RecordingObserver seen;
    RunRanks(world_size, [&](Collective& ranks) {
      at::set_num_threads(1);
      RecordingObserver own;
      Trainer trainer = Make(ranks, own);
      trainer.HoldAgainst(1e9);
      ASSERT_TRUE(trainer.Run().ok());
      if (ranks.rank() == 0) seen = std::move(own);
    });
    const auto epochs = seen.Kind("train");
    double sum = 0;
    for (const json& point : epochs) {
      const json& train = point["train"];
      const bool mining = point["epoch"] == 2;
      const int64_t rows = 200, kept = std::lround(rows * train["kept_share"].get<double>());
      int64_t expected = kept * flops.Of(kTrainingPass);
      if (mining) {
        EXPECT_LT(kept, rows);
        expected += rows * (mining_step * flops.Of(kInputGradientPass) + flops.Of(kForwardPass)) +
                    kept * (steps - mining_step) * flops.Of(kInputGradientPass);
      } else {
        expected += rows * steps * flops.Of(kInputGradientPass);
      }
      EXPECT_EQ(train["model_flops"], static_cast<double>(expected));
      sum += static_cast<double>(expected);
      double seconds = 0;
      for (const auto& [phase, spent] : train["phase_seconds"].items()) seconds += spent.get<double>();
      EXPECT_DOUBLE_EQ(train["model_flops_utilization"], static_cast<double>(expected) / 1e9 / seconds);
      EXPECT_DOUBLE_EQ(train["images_per_second"], static_cast<double>(rows) / seconds);
    }
    const json summary = seen.points.back()["summary"];
    EXPECT_EQ(summary["model_flops"], sum);
    EXPECT_GT(summary["model_flops_utilization"], 0);
  }
}

TEST_F(TrainerTest, LogitsOfTheAttackedRowsAreCountedWhereRowsAreDropped) {
  spec_.epochs = 1;
  spec_.method.mining_start_epoch = 1;
  spec_.method.drop_share = 0.25;
  RecordingObserver seen;
  RunToEnd(1, &seen);
  const json train = seen.Kind("train")[0]["train"];
  const ModelFlops flops = model_->flops();
  const auto trained = std::lround(200 * train["kept_share"].get<double>());
  const double of_all =
      200.0 * static_cast<double>(spec_.method.mining_step * flops.Of(kInputGradientPass) + flops.Of(kForwardPass)) +
      static_cast<double>(trained * flops.Of(kTrainingPass));
  const double of_attacked = static_cast<double>(
      (spec_.attack.steps - spec_.method.mining_step) * flops.Of(kInputGradientPass) + flops.Of(kForwardPass));
  const double attacked = (train["model_flops"].get<double>() - of_all) / of_attacked;
  EXPECT_EQ(attacked, std::round(attacked));
  EXPECT_GT(attacked, trained);
}

TEST_F(TrainerTest, ExtraDataIsForTrainingStepsOnly) {
  train_.extra_rows = 80;
  spec_.data.extra_share = 0.5;
  spec_.data.validation_share = 0.1;
  spec_.data.train_rows = 100;
  const auto data = ChooseRows(spec_.data, train_, test_);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->train_rows.size(), 100);
  EXPECT_LT(data->train_rows.back(), 120);
  EXPECT_NEAR(static_cast<double>(data->validation_rows.size()), 12, 2);
  EXPECT_LT(data->validation_rows.back(), 120);
  spec_.data.train_rows = 121;
  EXPECT_THAT(std::string(ChooseRows(spec_.data, train_, test_).status().message()),
              HasSubstr("allowed is 0 (all) to"));
}

TEST_F(TrainerTest, BatchesMixExtraRowsInOnAnyNumberOfRanks) {
  train_.extra_rows = 80;
  spec_.data.extra_share = 0.5;
  spec_.precision = Precision::kFp64;
  RecordingObserver one, two;
  const at::Tensor alone = RunToEnd(1, &one);
  const at::Tensor together = RunToEnd(2, &two);
  EXPECT_TRUE(at::allclose(together, alone, 1e-9, 1e-11)) << (together - alone).abs().max().item<double>();
  EXPECT_EQ(one.Kind("train")[0]["train"]["iterations"], 3);  // of 120 own rows, as without extra data
  const auto local = MakeLocalCollective();
  RecordingObserver observer;
  Trainer trainer = Make(*local, observer);
  const auto step = trainer.Step(1, trainer.OrderOf(1), 0);
  ASSERT_TRUE(step.ok());
  EXPECT_EQ(std::count_if(step->kept.begin(), step->kept.end(), [](uint32_t row) { return row >= 120; }), 24);
}

TEST_F(TrainerTest, ResumesBitForBitWithinAnEpochOfExtraData) {
  train_.extra_rows = 60;
  spec_.data.extra_share = 0.7;
  spec_.checkpoint.every_iterations = 1;
  RecordingObserver whole;
  const at::Tensor expected = RunToEnd(1, &whole);
  ASSERT_EQ(whole.checkpoints.size(), 9);
  for (const size_t stop : {0, 4, 7}) {  // of the first, second and third epoch
    SCOPED_TRACE(::testing::Message() << "after checkpoint " << stop);
    RecordingObserver after;
    ExpectGoesOnTo(expected, whole.checkpoints[stop], &after);
  }
}

TEST_F(TrainerTest, RefusesFewerExtraRowsThanABatchTakes) {
  const auto local = MakeLocalCollective();
  RecordingObserver observer;
  spec_.data.extra_share = 0.5;
  train_.extra_rows = 24;
  EXPECT_TRUE(Make(*local, observer).Check().ok());
  train_.extra_rows = 23;
  EXPECT_THAT(std::string(Make(*local, observer).Check().message()),
              HasSubstr("train.data.extra_share is 0.5: 24 rows of each batch, but train.data.extra has 23 rows"));
}

TEST_F(TrainerTest, EvaluatesOnHeldOutRowsUntilTheEnd) {
  spec_.data.validation_share = 0.1;
  RecordingObserver seen;
  RunToEnd(1, &seen);
  std::vector<std::pair<std::string, int>> evaluations;
  for (const json& point : seen.Kind("evaluation")) {
    evaluations.emplace_back(point["evaluation"]["split"], point["evaluation"]["rows"]);
  }
  const int held_out = evaluations[0].second;
  EXPECT_NEAR(held_out, 20, 4);  // of each class a tenth, rounded
  EXPECT_THAT(evaluations, ::testing::ElementsAre(std::pair("validation", held_out), std::pair("validation", held_out),
                                                  std::pair("validation", held_out), std::pair("test", 120)));
  ASSERT_EQ(seen.scores.size(), 3);  // by the first suite of each on held-out rows
  for (size_t i = 0; i < seen.scores.size(); ++i) {
    const json suite = seen.Kind("evaluation")[i]["evaluation"]["suites"][0];
    EXPECT_EQ(seen.scores[i].epoch, i + 1);
    EXPECT_EQ(seen.scores[i].robust_accuracy, suite["robust_accuracy"]);
    EXPECT_EQ(seen.scores[i].worst_class_robust_accuracy, suite["worst_class_robust_accuracy"]);
  }
}

TEST_F(TrainerTest, ScoresNothingByTestRowsOrWithoutAnAttack) {
  RecordingObserver by_test;
  RunToEnd(1, &by_test);
  EXPECT_TRUE(by_test.scores.empty());
  spec_.data.validation_share = 0.1;
  spec_.evaluation.suites.clear();
  RecordingObserver without;
  RunToEnd(1, &without);
  EXPECT_TRUE(without.scores.empty());
}

TEST_F(TrainerTest, AnErrorOfTheObserverAboutScoresEndsTheRun) {
  spec_.data.validation_share = 0.1;
  RecordingObserver seen;
  seen.scores_result = absl::ResourceExhaustedError("full");
  const auto local = MakeLocalCollective();
  EXPECT_EQ(Make(*local, seen).Run(), seen.scores_result);
}

TEST_F(TrainerTest, SaysWhichCheckpointsAreOfWithinAnEpoch) {
  spec_.checkpoint.every_iterations = 3;
  RecordingObserver seen;
  RunToEnd(1, &seen);
  std::map<int64_t, bool> within;
  for (const Checkpoint& checkpoint : seen.checkpoints) within[checkpoint.info.iteration] = checkpoint.within_epoch;
  EXPECT_EQ(within, (std::map<int64_t, bool>{
                        {3, true}, {5, false}, {6, true}, {9, true}, {10, false}, {12, true}, {15, false}}));
}

TEST_F(TrainerTest, ResumesBitForBitAtAnEpochBoundary) {
  for (const OptimizerKind kind : {OptimizerKind::kSgd, OptimizerKind::kAdam}) {
    spec_.optimizer.name = kind;
    RecordingObserver whole;
    const at::Tensor expected = RunToEnd(1, &whole);

    const auto local = MakeLocalCollective();
    RecordingObserver before;
    before.stop_after = 2;
    EXPECT_EQ(Make(*local, before).Run().code(), absl::StatusCode::kCancelled);
    RecordingObserver after;
    Trainer resumed = Make(*local, after);
    ASSERT_TRUE(resumed.Restore(before.checkpoints.back()).ok());
    ASSERT_TRUE(resumed.Run().ok());
    EXPECT_TRUE(at::equal(resumed.weights().flat(), expected));
    // The evaluation after epoch 2 is repeated: the first attempt did not get to it.
    ASSERT_EQ(after.Kind("evaluation").size(), 2);
    EXPECT_EQ(after.Kind("evaluation")[0]["iteration"], 10);
    for (int i = 0; i < 2; ++i) {
      json a = after.Kind("evaluation")[i], b = whole.Kind("evaluation")[i + 1];
      a["evaluation"].erase("evaluation_seconds");
      b["evaluation"].erase("evaluation_seconds");
      EXPECT_EQ(a, b);
    }
    EXPECT_EQ(after.points.back()["summary"]["hard_share"], whole.points.back()["summary"]["hard_share"]);
  }
}

TEST_F(TrainerTest, RefusesACheckpointOfAnotherJob) {
  const auto local = MakeLocalCollective();
  RecordingObserver observer;
  observer.stop_after = 1;
  EXPECT_FALSE(Make(*local, observer).Run().ok());
  Checkpoint checkpoint = observer.checkpoints.back();
  Trainer trainer = Make(*local, observer);
  checkpoint.info.iteration = 3;
  EXPECT_EQ(trainer.Restore(checkpoint).code(), absl::StatusCode::kInvalidArgument);
  checkpoint = observer.checkpoints.back();
  checkpoint.scalars.erase("updates");
  EXPECT_EQ(trainer.Restore(checkpoint).code(), absl::StatusCode::kInvalidArgument);
  checkpoint = observer.checkpoints.back();
  checkpoint.model.erase("conv1.weight");
  EXPECT_EQ(trainer.Restore(checkpoint).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(TrainerTest, TooFewKeptRowsLeaveTheWeightsAlone) {
  spec_.method.mining_start_epoch = 1;
  spec_.method.minimum_hard = 48;
  spec_.method.retained_easy_share = 0;
  RunRanks(2, [&](Collective& ranks) {
    RecordingObserver observer;
    Trainer trainer = Make(ranks, observer);
    const at::Tensor before = trainer.weights().flat().clone();
    const auto order = trainer.OrderOf(1);
    const auto step = trainer.Step(1, order, 192);  // 8 rows
    ASSERT_TRUE(step.ok());
    EXPECT_TRUE(step->skipped());
    EXPECT_TRUE(step->sums().finite);
    EXPECT_TRUE(at::equal(trainer.weights().flat(), before));
    EXPECT_EQ(trainer.MakeCheckpoint().info.iteration, 1);
    EXPECT_EQ(trainer.MakeCheckpoint().scalars["updates"], 0);
  });
}

TEST_F(TrainerTest, NonFiniteNumbersSkipTheStepAndFiftyInARowEndTheRun) {
  const auto local = MakeLocalCollective();
  RecordingObserver observer;
  observer.stop_after = 1;
  EXPECT_FALSE(Make(*local, observer).Run().ok());
  Checkpoint poisoned = observer.checkpoints.back();
  MakeLossInfinite(&poisoned);
  spec_.epochs = 60;
  spec_.optimizer.schedule = Schedule::kConstant;
  observer.stop_after = -1;
  Trainer trainer = Make(*local, observer);
  ASSERT_TRUE(trainer.Restore(poisoned).ok());
  const absl::Status status = trainer.Run();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("training diverged"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("up to iteration 55"));
  EXPECT_EQ(observer.Kind("train").back()["train"]["loss"], "NaN");
  EXPECT_EQ(observer.Kind("train").back()["train"]["skipped_iterations"], 5);
  EXPECT_EQ(trainer.MakeCheckpoint().scalars["updates"], 5);
}

TEST_F(TrainerTest, ARunThatEndsWithNonFiniteNumbersFailsAndIsNotSaved) {
  const auto local = MakeLocalCollective();
  RecordingObserver observer;
  observer.stop_after = 2;
  EXPECT_FALSE(Make(*local, observer).Run().ok());
  Checkpoint poisoned = observer.checkpoints.back();
  MakeLossInfinite(&poisoned);
  observer.stop_after = -1;
  Trainer trainer = Make(*local, observer);
  ASSERT_TRUE(trainer.Restore(poisoned).ok());
  const absl::Status status = trainer.Run();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("not finite since iteration 11; lower"));
  EXPECT_EQ(observer.checkpoints.size(), 2);
  EXPECT_TRUE(observer.Kind("summary").empty());
}

TEST_F(TrainerTest, RanksMeetAfterASave) {
  class Watcher : public RecordingObserver {
   public:
    explicit Watcher(const Collective& ranks) : ranks_(ranks) {}
    absl::Status OnTick(const Position& position) override {
      if (std::string(position.phase) == "evaluate" && calls < 0) calls = ranks_.sequence();
      return absl::OkStatus();
    }
    int64_t calls = -1;  // of the collective, before the evaluation

   private:
    const Collective& ranks_;
  };
  spec_.epochs = 1;
  RunRanks(2, [&](Collective& ranks) {
    at::set_num_threads(1);
    Watcher watcher(ranks);
    ASSERT_TRUE(Make(ranks, watcher).Run().ok());
    EXPECT_EQ(watcher.calls, 5 + 1);  // a sum an iteration; the save
  });
}

TEST_F(TrainerTest, WeightsThatAreNotFiniteAreNotSaved) {
  const auto local = MakeLocalCollective();
  RecordingObserver observer;
  observer.stop_after = 1;
  EXPECT_FALSE(Make(*local, observer).Run().ok());
  Checkpoint poisoned = observer.checkpoints.back();
  poisoned.state["output_bias"].fill_(std::numeric_limits<float>::quiet_NaN());
  observer.stop_after = -1;
  Trainer trainer = Make(*local, observer);
  ASSERT_TRUE(trainer.Restore(poisoned).ok());
  const absl::Status status = trainer.Run();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(status.message()),
      HasSubstr("weights are not finite after iteration 10; the first such tensor is the weight fc2.bias; lower"));
  EXPECT_EQ(observer.checkpoints.size(), 1);
}

TEST_F(TrainerTest, EvaluatesAveragedWeightsOnlyWhenThereAreAny) {
  spec_.epochs = 8;
  spec_.ema_decay = 0.9999;  // the average stays near the initial weights
  RecordingObserver averaged, raw;
  const at::Tensor a = RunToEnd(1, &averaged);
  EXPECT_TRUE(averaged.checkpoints[0].state.contains("average.conv1.weight"));
  spec_.ema_decay = 0;
  const at::Tensor b = RunToEnd(1, &raw);
  EXPECT_TRUE(at::equal(a, b));
  EXPECT_FALSE(raw.checkpoints[0].state.contains("average.conv1.weight"));
  EXPECT_LT(averaged.Kind("evaluation")[7]["evaluation"]["clean_accuracy"],
            raw.Kind("evaluation")[7]["evaluation"]["clean_accuracy"]);
}

TEST_F(TrainerTest, EvaluatesOnlyAtTheEndWhenAskedTo) {
  spec_.evaluation.every_epochs = 0;
  RecordingObserver seen;
  RunToEnd(1, &seen);
  ASSERT_EQ(seen.Kind("evaluation").size(), 1);
  EXPECT_EQ(seen.Kind("evaluation")[0]["epoch"], 3);
}

TEST_F(TrainerTest, ChecksRowsAndBatchBeforeTraining) {
  const auto local = MakeLocalCollective();
  RecordingObserver observer;
  EXPECT_TRUE(Make(*local, observer).Check().ok());
  spec_.data.train_rows = 201;
  EXPECT_THAT(std::string(ChooseRows(spec_.data, train_, test_).status().message()),
              HasSubstr("train.data.train_rows is 201, but the data set toy has 200 rows"));
  spec_.data.train_rows = 0;
  spec_.data.test_rows = 121;
  EXPECT_THAT(std::string(ChooseRows(spec_.data, train_, test_).status().message()),
              HasSubstr("train.data.test_rows is 121"));
  spec_.data.test_rows = 0;
  spec_.batch_size = 1;
  RunRanks(2, [&](Collective& ranks) {
    RecordingObserver own;
    EXPECT_THAT(std::string(Make(ranks, own).Check().message()), HasSubstr("train.batch_size is 1"));
  });
}

TEST_F(TrainerTest, ObserverAndCollectiveErrorsEndTheRun) {
  const auto local = MakeLocalCollective();
  RecordingObserver observer;
  observer.tick_result = absl::UnavailableError("the agent is gone");
  EXPECT_EQ(Make(*local, observer).Run().code(), absl::StatusCode::kUnavailable);
  RunRanks(2, [&](Collective& ranks) {
    if (ranks.rank() == 1) return;  // lost
    RecordingObserver own;
    EXPECT_EQ(Make(ranks, own).Run().code(), absl::StatusCode::kUnavailable);
  });
}

}  // namespace
}  // namespace ham::trainer
