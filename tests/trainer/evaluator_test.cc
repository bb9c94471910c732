#include "worker/trainer/evaluation/evaluator.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <numeric>
#include <set>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/mean.h>
#include <gtest/gtest.h>

#include "tests/support/run_ranks.h"
#include "tests/support/toy_images.h"
#include "worker/trainer/hard_examples.h"
#include "worker/trainer/models/networks.h"
#include "worker/trainer/pgd_attack.h"
#include "worker/trainer/trainer.h"

namespace ham::trainer {
namespace {

using ham::testing::RunRanks;
using ham::testing::ToyImages;
using ham::testing::ToyModel;

int64_t Sum(const std::vector<int64_t>& counts) { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

std::vector<uint32_t> FirstRows(int64_t count) {
  std::vector<uint32_t> rows(count);
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

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
    const auto data = ChooseRows(spec.data, train_, images_);
    Trainer trainer(spec, *model_, *data, *local, observer);
    ASSERT_TRUE(trainer.Run().ok());
    weights_ = trainer.weights().Clone();
  }

  EvaluationCounts Run(const std::vector<AttackSuite>& suites, int world_size = 1, int64_t rows = 150) {
    EvaluationCounts out;
    RunRanks(world_size, [&](Collective& ranks) {
      at::set_num_threads(1);
      NetworkPasses passes(*model_, weights_);
      auto counts = Evaluate(passes, weights_, images_, FirstRows(rows), suites, 5, ranks, [] {});
      ASSERT_TRUE(counts.ok()) << counts.status();
      if (ranks.rank() == 0) out = *counts;
    });
    return out;
  }

  // The rows that `attacks` leave right, one by one: from counts over ever more rows.
  std::set<int64_t> Robust(const std::vector<EvaluationAttack>& attacks) {
    std::set<int64_t> out;
    int64_t before = 0;
    for (int64_t rows = 1; rows <= 80; ++rows) {
      const int64_t count = Sum(Run({{"s", 0.3, attacks}}, 1, rows).robust[0]);
      if (count > before) out.insert(rows - 1);
      before = count;
    }
    return out;
  }

  const ImageSet train_ = ToyImages(200, 1);
  const ImageSet images_ = ToyImages(150, 2);
  const std::unique_ptr<Model> model_ = ToyModel();
  ParameterSet weights_{model_->parameters()};
};

const EvaluationAttack kNothing{AttackLoss::kMargin, 1, 1e-12, 1, false};
const EvaluationAttack kWeak{AttackLoss::kCrossEntropy, 2, 0.02, 1, true};
const EvaluationAttack kMargin{AttackLoss::kMargin, 5, 0.02, 2, true};

TEST_F(EvaluatorTest, CountsEveryRowOnceByClass) {
  const EvaluationCounts counts = Run({}, 1, 100);
  EXPECT_EQ(Sum(counts.rows), 100);
  std::vector<int64_t> expected(4);
  for (int64_t row = 0; row < 100; ++row) ++expected[images_.labels[row]];
  EXPECT_EQ(counts.rows, expected);
  EXPECT_EQ(counts.passes, (std::vector<int64_t>{100, 0, 0}));
}

TEST_F(EvaluatorTest, CountsThePassesOfTheRowsThatItWorksOn) {
  const EvaluationCounts counts = Run({{"a", 0.05, {kWeak}}, {"b", 0.05, {kMargin}}}, 2);
  const int64_t rows = Sum(counts.rows), right = Sum(counts.clean);
  EXPECT_GE(counts.passes[kForwardPass], rows + 3 * Sum(counts.robust[1]));
  EXPECT_LE(counts.passes[kForwardPass], rows + 3 * right);
  EXPECT_GE(counts.passes[kInputGradientPass], (2 + 5) * right + 5 * Sum(counts.robust[1]));
  EXPECT_LE(counts.passes[kInputGradientPass], (2 + 10) * right);
  EXPECT_EQ(counts.passes[kTrainingPass], 0);
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

// Some of more legs than one; some ranks run out of rows before others.
TEST_F(EvaluatorTest, AutoAttackDoesNotDependOnWorldSize) {
  std::vector<EvaluationAttack> attacks(4);
  const AttackName names[] = {AttackName::kApgd, AttackName::kApgdTargeted, AttackName::kFabTargeted,
                              AttackName::kSquare};
  for (size_t a = 0; a < attacks.size(); ++a) {
    attacks[a].name = names[a];
    attacks[a].steps = names[a] == AttackName::kSquare ? 200 : 12;
    attacks[a].targets = a == 1 || a == 2 ? 2 : 0;
  }
  const std::vector<AttackSuite> suites = {{"a", 0.15, attacks}, {"l2", 0.8, attacks, Norm::kL2}};
  const EvaluationCounts one = Run(suites, 1, 60);
  EXPECT_LT(Sum(one.robust[0]), Sum(one.clean));
  EXPECT_LT(Sum(one.robust[1]), Sum(one.clean));
  EXPECT_GT(Sum(one.robust[0]), 0);
  for (int world_size : {2, 3}) {
    const EvaluationCounts more = Run(suites, world_size, 60);
    EXPECT_EQ(more.robust, one.robust);
    EXPECT_EQ(more.passes, one.passes);
  }
}

TEST(CheckAttacksTest, NamesTheAttackThatNeedsMoreClasses) {
  EvaluationAttack attack;
  EXPECT_TRUE(CheckAttacks("a", {attack}, 2).ok());
  attack.loss = AttackLoss::kDlr;
  EXPECT_TRUE(CheckAttacks("a", {attack}, 3).ok());
  EXPECT_EQ(CheckAttacks("a", {{}, attack}, 2).message(),
            "a[1] is pgd with the loss \"dlr\", which needs 3 classes; these are 2; use one with another loss");
  attack.name = AttackName::kApgdTargeted;
  attack.targets = 3;
  EXPECT_TRUE(CheckAttacks("a", {attack}, 4).ok());
  EXPECT_EQ(CheckAttacks("a", {attack}, 3).message(),
            "a[0] is apgd-t with the loss \"dlr\", which needs 4 classes; these are 3; use one with another loss");
  attack.targets = 4;
  EXPECT_EQ(CheckAttacks("a", {attack}, 4).message(),
            "a[0].targets is 4, of 4 classes; allowed is at most 3: all but the true one");
}

TEST_F(EvaluatorTest, ARowIsRobustWhereNoAttackBreaksIt) {
  // In both places of a suite, as start points depend on the place.
  const EvaluationAttack noise{AttackLoss::kCrossEntropy, 1, 0.12, 1, true};
  const std::set<int64_t> clean = Robust({kNothing});
  const std::set<int64_t> first = Robust({noise}), second = Robust({kNothing, noise}), both = Robust({noise, noise});
  std::set<int64_t> expected;
  std::set_intersection(first.begin(), first.end(), second.begin(), second.end(),
                        std::inserter(expected, expected.end()));
  EXPECT_EQ(both, expected);
  // Each breaks rows that the other does not, or the above would say little.
  EXPECT_LT(first.size(), clean.size());
  EXPECT_LT(both.size(), first.size());
  EXPECT_LT(both.size(), second.size());
}

TEST_F(EvaluatorTest, EachRestartBreaksMore) {
  EvaluationAttack noise{AttackLoss::kCrossEntropy, 1, 0.12, 1, true};
  const std::set<int64_t> once = Robust({noise});
  noise.restarts = 2;
  const std::set<int64_t> twice = Robust({noise});
  EXPECT_TRUE(std::includes(once.begin(), once.end(), twice.begin(), twice.end()));
  EXPECT_LT(twice.size(), once.size());
}

TEST_F(EvaluatorTest, WrongAtAnyPointOnTheWayIsBrokenWhereAsked) {
  EvaluationAttack attack{AttackLoss::kMargin, 4, 0.04, 1, false};
  const std::set<int64_t> at_last = Robust({attack});
  attack.judged_at = JudgedAt::kAny;
  const std::set<int64_t> on_the_way = Robust({attack});
  attack.judged_at = JudgedAt::kLast;
  std::set<int64_t> expected = at_last;
  for (attack.steps = 1; attack.steps < 4; ++attack.steps) {
    const std::set<int64_t> shorter = Robust({attack});
    std::erase_if(expected, [&](int64_t row) { return !shorter.contains(row); });
  }
  EXPECT_EQ(on_the_way, expected);
}

// Every image is near a boundary; nothing moves.
TEST(EvaluatorPrecisionTest, LogitsOfLowerPrecisionBreakNothing) {
  at::set_num_threads(1);
  const auto model = MakePreActResNet18({.image = {1, 8, 8}, .classes = 4, .compute = at::kBFloat16}, 8);
  ParameterSet weights(model->parameters());
  weights.Initialize(3);
  ImageSet images = ToyImages(300, 1);
  const Batch batch = GatherBatch(images, FirstRows(300));
  weights.class_bias().copy_(-PaddedLogits(*model, weights, batch.x).mean(0));
  const std::vector<int64_t> labels = Predictions(PaddedLogits(*model, weights, batch.x));
  images = MakeImageSet(1, 8, 8, {images.images.begin(), images.images.end()}, labels, images.class_names);
  const auto ranks = MakeLocalCollective();
  const EvaluationAttack still{AttackLoss::kCrossEntropy, 2, 1e-9, 1, false, JudgedAt::kAny};
  NetworkPasses passes(*model, weights);
  const auto counts = Evaluate(passes, weights, images, FirstRows(300), {{"still", 1e-9, {still}}}, 5, *ranks, [] {});
  ASSERT_TRUE(counts.ok()) << counts.status();
  EXPECT_EQ(Sum(counts->clean), 300);
  EXPECT_EQ(Sum(counts->robust[0]), 300);
}

TEST_F(EvaluatorTest, ANetworkThatSaysNoNumbersIsNeverRight) {
  weights_.flat().fill_(std::numeric_limits<float>::quiet_NaN());
  const EvaluationCounts counts = Run({{"a", 0.05, {kWeak}}});
  EXPECT_EQ(Sum(counts.rows), 150);
  EXPECT_EQ(Sum(counts.clean), 0);
  EXPECT_EQ(Sum(counts.robust[0]), 0);
}

TEST_F(EvaluatorTest, RanksMeetAfterEachBlockHoweverManyRowsSurvive) {
  constexpr int64_t kRows = 520;  // 3 blocks on rank 0, 260 rows a rank
  ImageSet images = ToyImages(kRows, 3);
  std::vector<int64_t> labels(images.labels.begin(), images.labels.end());
  for (int64_t row = 1; row < kRows; row += 2) labels[row] = (labels[row] + 1) % 4;  // rank 1: mostly wrong
  images.labels = labels;
  RunRanks(2, [&](Collective& ranks) {
    at::set_num_threads(1);
    NetworkPasses passes(*model_, weights_);
    ASSERT_TRUE(
        Evaluate(passes, weights_, images, FirstRows(kRows), {{"a", 0.05, {kWeak, kMargin}}}, 5, ranks, [] {}).ok());
    EXPECT_EQ(ranks.sequence(), 3 * (1 + 1 + 2) + 2);  // clean, one run, two restarts; the end
  });
}

TEST_F(EvaluatorTest, AnAttackThatCannotMoveLeavesCleanAccuracy) {
  const EvaluationCounts counts = Run({{"none", 1e-12, {kNothing}}});
  EXPECT_EQ(counts.robust[0], counts.clean);
}

TEST_F(EvaluatorTest, FewerRowsThanRanks) { EXPECT_EQ(Sum(Run({{"a", 0.05, {kWeak}}}, 3, 2).rows), 2); }

}  // namespace
}  // namespace ham::trainer
