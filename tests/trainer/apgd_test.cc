#include "worker/trainer/evaluation/apgd.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/max.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/min.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "tests/support/toy_images.h"
#include "worker/trainer/attack_loss.h"
#include "worker/trainer/device.h"
#include "worker/trainer/device_ops.h"

namespace ham::trainer {
namespace {

using ham::testing::ToyImages;
using ham::testing::ToyModel;

at::Tensor Column(std::vector<float> numbers) { return at::tensor(numbers); }

// Steps after which rows are asked whether to halve, of losses that `loss` gives step by step, and what is answered.
std::vector<std::pair<int, bool>> Questions(int steps, float first, const std::function<float(int)>& loss) {
  std::vector<std::pair<int, bool>> out;
  float best = first;
  ApgdSchedule schedule(steps, Column({first}));
  for (int step = 1; step <= steps; ++step) {
    best = std::max(best, loss(step));
    if (schedule.Count(Column({loss(step)}))) out.emplace_back(step, schedule.Halve(Column({best})).item<bool>());
  }
  return out;
}

TEST(ApgdScheduleTest, AsksAfterTheStepsOfThePaper) {
  std::vector<int> asked;
  for (const auto& [step, halves] : Questions(100, 0, [](int step) { return static_cast<float>(step); })) {
    asked.push_back(step);
    EXPECT_FALSE(halves) << "a loss that rises, step " << step;
  }
  EXPECT_EQ(asked, (std::vector<int>{22, 41, 57, 70, 80, 87, 93, 99}));
  EXPECT_EQ(Questions(1, 0, [](int) { return 0.0f; }).size(), 1u);
}

TEST(ApgdScheduleTest, HalvesWhereThreeQuartersOfTheStepsOrFewerRaisedTheLoss) {
  // At the third question 16 steps have gone by: 12 that rise are three quarters.
  for (const int rising : {12, 13}) {
    const auto questions = Questions(100, 0, [&](int step) {
      const int in = step - 41;
      return static_cast<float>(in <= rising ? step : 41 + rising - (in - rising) * 0.01);
    });
    EXPECT_EQ(questions[2], std::pair(57, rising == 12));
  }
}

TEST(ApgdScheduleTest, HalvesWhereTheBestDidNotRiseUnlessItHasJustHalved) {
  // Rises in each step but the first after a question, which falls far: enough steps rise, the best stands.
  const auto below = [](int from, int step) { return static_cast<float>(-1000 + step - from); };
  const auto questions = Questions(100, 0, [&](int step) {
    return step <= 22   ? static_cast<float>(step)
           : step <= 41 ? below(22, step)
           : step <= 57 ? below(41, step)
                        : below(57, step);
  });
  EXPECT_EQ(questions[0], std::pair(22, false));
  EXPECT_EQ(questions[1], std::pair(41, true));
  EXPECT_EQ(questions[2], std::pair(57, false));
  EXPECT_EQ(questions[3], std::pair(70, true));
}

TEST(ApgdScheduleTest, KeepsRows) {
  ApgdSchedule schedule(100, Column({0, 0, 0}));
  for (int step = 1; step <= 10; ++step) {
    schedule.Count(Column({static_cast<float>(step), -1, static_cast<float>(step)}));
  }
  schedule.Keep({0, 1, 1});
  for (int step = 11; step <= 22; ++step) schedule.Count(Column({-1, static_cast<float>(step)}));
  EXPECT_TRUE(at::equal(schedule.Halve(Column({0, 22})), at::tensor(std::vector<int>{1, 0}).to(at::kBool)));
}

class ApgdTest : public ::testing::TestWithParam<Norm> {
 protected:
  ApgdTest() {
    at::set_num_threads(1);
    weights_.Initialize(3);
    passes_.Freeze(weights_);
  }

  AttackedRows Rows(const std::vector<uint32_t>& ids) const {
    AttackedRows out{GatherBatch(images_, ids), {}, ball_, {.seed = 9, .purpose = RandomPurpose::kEvaluationStart}};
    std::vector<int64_t> targets;
    for (const uint32_t id : ids) targets.push_back((images_.labels[id] + 1) % 4);
    out.targets = at::tensor(targets);
    return out;
  }

  Apgd Attack(const AttackedRows& rows, AttackLoss loss, int steps) {
    return {passes_, rows, loss, steps, ApgdStart(rows)};
  }

  void ExpectInBall(const at::Tensor& x, const at::Tensor& clean) const {
    EXPECT_GE(at::min(x).item<float>(), 0);
    EXPECT_LE(at::max(x).item<float>(), 1);
    const at::Tensor away = AsRows(x) - AsRows(clean);
    const at::Tensor length = ball_.norm == Norm::kLinf ? at::amax(at::abs(away), {1})
                                                        : at::linalg_vector_norm(away, 2, at::OptionalIntArrayRef({1}));
    EXPECT_LE(at::max(length).item<float>(), ball_.radius * (1 + 1e-6));
  }

  const ImageSet images_ = ToyImages(40, 2);
  const std::unique_ptr<Model> model_ = ToyModel();
  const Ball ball_{GetParam(), GetParam() == Norm::kLinf ? 0.1 : 0.7};
  ParameterSet weights_{model_->parameters()};
  NetworkPasses passes_{*model_, weights_};
};

INSTANTIATE_TEST_SUITE_P(Norms, ApgdTest, ::testing::Values(Norm::kLinf, Norm::kL2),
                         [](const auto& norm) { return NormName(norm.param); });

TEST_P(ApgdTest, StartsOnTheSphereAndStaysInTheBall) {
  const AttackedRows rows = Rows({0, 1, 2, 3, 4});
  const at::Tensor start = ApgdStart(rows);
  EXPECT_GT(at::max(at::abs(start - rows.batch.x)).item<float>(), ball_.norm == Norm::kLinf ? 0.0999 : 0.1);
  Apgd attack = Attack(rows, AttackLoss::kCrossEntropy, 30);
  ASSERT_EQ(attack.iterations(), 31);
  for (int i = 0; i < attack.iterations(); ++i) {
    const AttackRun::Points points = attack.Next();
    if (i == 0) {
      EXPECT_TRUE(at::equal(points.x, start));
    }
    ExpectInBall(points.x, rows.batch.x);
    EXPECT_TRUE(at::allclose(points.logits, PaddedLogits(*model_, weights_, points.x), 1e-5, 1e-5));
  }
}

TEST_P(ApgdTest, TheFirstStepIsOneOfPgdWithTwiceTheRadius) {
  const AttackedRows rows = Rows({0, 1, 2, 3});
  Apgd attack = Attack(rows, AttackLoss::kDlr, 2);
  at::Tensor expected = attack.Next().x.clone();
  passes_.Aim(AttackLoss::kDlr, rows.batch);
  const at::Tensor gradient = passes_.AttackPoint(expected).gradient;
  ProjectedStep(ball_, 2 * ball_.radius, rows.batch.x.const_data_ptr<float>(), gradient.const_data_ptr<float>(), 4, 64,
                expected.data_ptr<float>());
  EXPECT_TRUE(at::allclose(attack.Next().x, expected, 0, 1e-6));
}

TEST_P(ApgdTest, RaisesItsLoss) {
  for (const AttackLoss loss : {AttackLoss::kCrossEntropy, AttackLoss::kDlr, AttackLoss::kTargetedDlr}) {
    const AttackedRows rows = Rows({0, 1, 2, 3, 4, 5, 6, 7});
    Apgd attack = Attack(rows, loss, 50);
    passes_.Aim(loss, rows.batch, rows.targets);
    const at::Tensor first = passes_.LossValues(attack.Next().logits).clone();
    at::Tensor best = first.clone();
    for (int i = 1; i < attack.iterations(); ++i) best = at::maximum(best, passes_.LossValues(attack.Next().logits));
    EXPECT_GT(at::mean(best - first).item<float>(), 0) << static_cast<int>(loss);
  }
}

TEST_P(ApgdTest, ARowDoesNotDependOnThoseBesideIt) {
  const auto run = [this](const std::vector<uint32_t>& ids, uint32_t id, int leaves_after) {
    Apgd attack = Attack(Rows(ids), AttackLoss::kTargetedDlr, 40);
    int64_t row = std::find(ids.begin(), ids.end(), id) - ids.begin();
    at::Tensor x;
    for (int i = 0; i < attack.iterations(); ++i) {
      x = attack.Next().x.select(0, row).clone();
      if (i != leaves_after) continue;
      std::vector<uint8_t> keep(ids.size(), 0);
      keep[row] = keep[ids.size() - 1] = 1;
      attack.Keep(keep);
      row = 0;
    }
    return x;
  };
  std::vector<uint32_t> many(40);
  std::iota(many.begin(), many.end(), 0);
  const at::Tensor alone = run({7}, 7, -1);
  EXPECT_TRUE(at::equal(run(many, 7, -1), alone));
  for (const int leaves_after : {0, 10, 22, 23}) EXPECT_TRUE(at::equal(run(many, 7, leaves_after), alone));
  EXPECT_TRUE(at::equal(run({9, 7, 3, 21}, 7, 5), alone));
}

TEST_P(ApgdTest, TheStepOnADeviceIsThatOnTheHost) {
  const AttackedRows rows = Rows({0, 1, 2, 3, 4});
  const at::Tensor start = ApgdStart(rows);
  passes_.Aim(AttackLoss::kCrossEntropy, rows.batch);
  const ApgdPoint point{start, rows.batch.x, passes_.AttackPoint(start).gradient};
  const at::Tensor step_size = at::full({5}, 0.05);
  const at::Tensor host = ApgdStep(ball_, rows.batch.x, point, step_size, 0.75);
  const HostAsDevice device;
  EXPECT_TRUE(at::allclose(ApgdStep(ball_, rows.batch.x, point, step_size, 0.75), host, 0, 1e-6));
}

TEST(AttackLossTest, ValuesHaveTheGradientsThatAreWrittenOut) {
  const at::Tensor logits = at::tensor({0.3, -1.2, 2.0, 0.7, 0.1, 1.5, -0.4, 0.9, 0.2, -2.0}, at::kDouble).view({2, 5});
  const at::Tensor labels = at::tensor({int64_t{2}, int64_t{4}}), goals = at::tensor({int64_t{0}, int64_t{2}});
  const auto one_hot = [](const at::Tensor& classes) { return at::one_hot(classes, 5).to(at::kDouble); };
  for (const AttackLoss loss : {AttackLoss::kCrossEntropy, AttackLoss::kMargin, AttackLoss::kDlr,
                                AttackLoss::kTargetedDlr, AttackLoss::kLogitDifference}) {
    const bool targeted = loss == AttackLoss::kTargetedDlr || loss == AttackLoss::kLogitDifference;
    const at::Tensor goal_shares = targeted ? one_hot(goals) : at::Tensor();
    const auto value = [&](const at::Tensor& at) { return AttackLossValues(loss, at, one_hot(labels), goal_shares); };
    const at::Tensor gradient = AttackLossGradient(loss, logits, labels, {}, targeted ? goals : at::Tensor());
    const at::Tensor on_device = device::AttackLossGradient(loss, logits, one_hot(labels), goal_shares);
    EXPECT_TRUE(at::allclose(on_device, gradient, 1e-12, 1e-12)) << static_cast<int>(loss);
    for (int64_t k = 0; k < 5; ++k) {
      const at::Tensor step = 1e-6 * at::one_hot(at::tensor({k, k}), 5).to(at::kDouble);
      const at::Tensor slope = (value(logits + step) - value(logits - step)) / 2e-6;
      EXPECT_TRUE(at::allclose(gradient.select(1, k), slope, 1e-5, 1e-7)) << static_cast<int>(loss) << " class " << k;
    }
  }
}

}  // namespace
}  // namespace ham::trainer
