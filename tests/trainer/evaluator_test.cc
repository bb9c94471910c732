#include "worker/trainer/evaluator.h"

#include <numeric>

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "tests/support/run_ranks.h"
#include "tests/support/toy_images.h"
#include "worker/trainer/trainer.h"

namespace ham::trainer {
namespace {

using ham::testing::RunRanks;
using ham::testing::ToyImages;
using ham::testing::ToyModel;

int64_t Sum(const std::vector<int64_t>& counts) { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

class SilentObserver : public RunObserver {
 public:
  absl::Status OnTick(const Position&) override { return absl::OkStatus(); }
  absl::Status OnMetric(const nlohmann::json&) override { return absl::OkStatus(); }
  absl::Status OnCheckpoint(Checkpoint) override { return absl::OkStatus(); }
};

class EvaluatorTest : public ::testing::Test {
 protected:
  // Trained a little: an untrained model gives every image the same label.
  void SetUp() override {
    at::set_num_threads(1);
    TrainSpec spec = ham::testing::ToySpec();
    spec.method.name = Method::kPgdAt;
    spec.epochs = 5;
    SilentObserver observer;
    const auto local = MakeLocalCollective();
    Trainer trainer(spec, *model_, train_, images_, *local, observer);
    ASSERT_TRUE(trainer.Run().ok());
    weights_ = trainer.weights().Clone();
  }

  EvaluationCounts Run(const std::vector<AttackSuite>& suites, int world_size = 1, int64_t rows = 150) {
    EvaluationCounts out;
    RunRanks(world_size, [&](Collective& ranks) {
      at::set_num_threads(1);
      auto counts = Evaluate(*model_, weights_, images_, rows, suites, 5, ranks, [] {});
      ASSERT_TRUE(counts.ok()) << counts.status();
      if (ranks.rank() == 0) out = *counts;
    });
    return out;
  }

  const ImageSet train_ = ToyImages(200, 1);
  const ImageSet images_ = ToyImages(150, 2);
  const std::unique_ptr<Model> model_ = ToyModel();
  ParameterSet weights_{model_->parameters()};
};

const EvaluationAttack kWeak{AttackLoss::kCrossEntropy, 2, 0.02, 1, true};
const EvaluationAttack kMargin{AttackLoss::kMargin, 5, 0.02, 2, true};

TEST_F(EvaluatorTest, CountsEveryRowOnceByClass) {
  const EvaluationCounts counts = Run({}, 1, 100);
  EXPECT_EQ(Sum(counts.rows), 100);
  std::vector<int64_t> expected(4);
  for (int64_t row = 0; row < 100; ++row) ++expected[images_.labels[row]];
  EXPECT_EQ(counts.rows, expected);
}

TEST_F(EvaluatorTest, DoesNotDependOnWorldSize) {
  const std::vector<AttackSuite> suites = {{"a", 0.05, {kWeak, kMargin}}};
  const EvaluationCounts one = Run(suites);
  for (int world_size : {2, 3}) {
    const EvaluationCounts more = Run(suites, world_size);
    EXPECT_EQ(more.rows, one.rows);
    EXPECT_EQ(more.clean, one.clean);
    EXPECT_EQ(more.robust, one.robust);
  }
}

TEST_F(EvaluatorTest, RobustIsTheWorstOverAttacksAndRestarts) {
  const EvaluationCounts counts =
      Run({{"weak", 0.02, {kWeak}}, {"margin", 0.02, {kMargin}}, {"weak-too", 0.02, {kWeak, kMargin}}});
  for (size_t k = 0; k < 4; ++k) {
    EXPECT_LE(counts.robust[0][k], counts.clean[k]);
    EXPECT_LE(counts.robust[2][k], counts.robust[0][k]);
  }
  EXPECT_GT(Sum(counts.clean), 0);
  const EvaluationCounts strong = Run({{"strong", 0.5, {{AttackLoss::kCrossEntropy, 20, 0.1, 2, true}}}});
  EXPECT_LT(Sum(strong.robust[0]), Sum(strong.clean));
}

TEST_F(EvaluatorTest, AnAttackThatCannotMoveLeavesCleanAccuracy) {
  const EvaluationCounts counts = Run({{"none", 1e-12, {{AttackLoss::kMargin, 1, 1e-12, 1, false}}}});
  EXPECT_EQ(counts.robust[0], counts.clean);
}

TEST_F(EvaluatorTest, FewerRowsThanRanks) { EXPECT_EQ(Sum(Run({{"a", 0.05, {kWeak}}}, 3, 2).rows), 2); }

}  // namespace
}  // namespace ham::trainer
