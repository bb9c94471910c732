#include "worker/trainer/evaluation/fab.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full_like.h>
#include <gtest/gtest.h>

#include "tests/support/linear_model.h"
#include "tests/support/seed.h"
#include "tests/support/toy_images.h"
#include "worker/trainer/device.h"
#include "worker/trainer/evaluation/fab_projection.h"

namespace ham::trainer {
namespace {

using ham::testing::LinearModel;
using ham::testing::TestSeed;
using ham::testing::ToyImages;
using ham::testing::ToyModel;

constexpr Norm kNorms[] = {Norm::kLinf, Norm::kL2};

struct Case {
  std::vector<double> w, point;
  double excess;
};

// Images with pixels at the ends of their range, slopes of 0, hyperplanes out of reach.
Case RandomCase(std::mt19937_64* random, int64_t pixels) {
  std::uniform_real_distribution<double> unit(0, 1);
  Case out;
  double reach = 0;
  for (int64_t i = 0; i < pixels; ++i) {
    const double kind = unit(*random);
    out.w.push_back(kind < 0.15 ? 0 : 2 * unit(*random) - 1);
    out.point.push_back(kind > 0.85 ? std::round(unit(*random)) : unit(*random));
    reach += std::abs(out.w.back());
  }
  out.excess = reach * (2 * unit(*random) - 1) * (unit(*random) < 0.3 ? 1.5 : 0.5);
  return out;
}

double Room(const Case& c, size_t i) { return (c.w[i] > 0) == (c.excess >= 0) ? c.point[i] : 1 - c.point[i]; }

double FurthestReach(const Case& c) {
  double reach = 0;
  for (size_t i = 0; i < c.w.size(); ++i) reach += std::abs(c.w[i]) * Room(c, i);
  return reach;
}

// By bisection of the radius of the ball within which the hyperplane is met.
double LeastLinfNorm(const Case& c) {
  double low = 0, high = 1;
  for (int i = 0; i < 100; ++i) {
    const double middle = (low + high) / 2;
    double reach = 0;
    for (size_t k = 0; k < c.w.size(); ++k) reach += std::abs(c.w[k]) * std::min(Room(c, k), middle);
    (reach < std::abs(c.excess) ? low : high) = middle;
  }
  return high;
}

// Of all choices of pixels that end at one side of the box: the least norm of those that are in it.
double LeastL2Norm(const Case& c) {
  const size_t pixels = c.w.size();
  double least = std::numeric_limits<double>::infinity();
  size_t choices = 1;
  for (size_t i = 0; i < pixels; ++i) choices *= 3;
  for (size_t choice = 0; choice < choices; ++choice) {
    std::vector<double> move(pixels, 0);
    double left = -c.excess, slope = 0;
    size_t digits = choice;
    for (size_t i = 0; i < pixels; ++i, digits /= 3) {
      if (digits % 3 == 0) {
        slope += c.w[i] * c.w[i];
        continue;
      }
      move[i] = digits % 3 == 1 ? -c.point[i] : 1 - c.point[i];
      left -= c.w[i] * move[i];
    }
    if (slope == 0 && std::abs(left) > 1e-12) continue;
    double norm = 0;
    bool in_box = true;
    digits = choice;
    for (size_t i = 0; i < pixels; ++i, digits /= 3) {
      if (digits % 3 == 0 && slope > 0) move[i] = left * c.w[i] / slope;
      const double to = c.point[i] + move[i];
      in_box = in_box && to > -1e-12 && to < 1 + 1e-12;
      norm += move[i] * move[i];
    }
    if (in_box) least = std::min(least, norm);
  }
  return std::sqrt(least);
}

TEST(FabProjectionTest, FindsTheNearestPointOfTheHyperplaneInTheBox) {
  std::mt19937_64 random(TestSeed());
  int reached = 0, out_of_reach = 0;
  for (int trial = 0; trial < 400; ++trial) {
    const Case c = RandomCase(&random, 1 + trial % 7);
    const int64_t pixels = static_cast<int64_t>(c.w.size());
    const bool reaches = FurthestReach(c) >= std::abs(c.excess);
    (reaches ? reached : out_of_reach)++;
    for (const Norm norm : kNorms) {
      std::vector<double> move(pixels, 7);
      const double length = MoveOntoHyperplane(norm, c.w.data(), c.excess, c.point.data(), pixels, move.data());
      double fall = 0, largest = 0, squares = 0;
      for (int64_t i = 0; i < pixels; ++i) {
        ASSERT_GE(c.point[i] + move[i], -1e-15);
        ASSERT_LE(c.point[i] + move[i], 1 + 1e-15);
        if (c.w[i] == 0) {
          ASSERT_EQ(move[i], 0);
        } else if (!reaches) {
          ASSERT_NEAR(std::abs(move[i]), Room(c, i), 1e-15);
        }
        fall -= c.w[i] * move[i];
        largest = std::max(largest, std::abs(move[i]));
        squares += move[i] * move[i];
      }
      ASSERT_NEAR(length, norm == Norm::kL2 ? std::sqrt(squares) : largest, 1e-12);
      if (!reaches) continue;
      ASSERT_NEAR(fall, c.excess, 1e-12);
      ASSERT_NEAR(length, norm == Norm::kL2 ? LeastL2Norm(c) : LeastLinfNorm(c), 1e-9) << "trial " << trial;
    }
  }
  EXPECT_GT(reached, 100);
  EXPECT_GT(out_of_reach, 50);
}

// Each step of Newton's method brings no more than one pixel to its end.
TEST(FabProjectionTest, FindsPointsThatAreFarFromTheFirstGuess) {
  Case c{.w = {}, .point = {}, .excess = 0};
  for (int i = 0; i < 40; ++i) {
    c.w.push_back(std::pow(0.8, i));
    c.point.push_back(std::pow(0.7, 40 - i));
  }
  c.excess = FurthestReach(c) * 0.999999;
  std::vector<double> move(40);
  for (const Norm norm : kNorms) {
    MoveOntoHyperplane(norm, c.w.data(), c.excess, c.point.data(), 40, move.data());
    double fall = 0;
    for (int i = 0; i < 40; ++i) fall -= c.w[i] * move[i];
    EXPECT_NEAR(fall, c.excess, 1e-12);
  }
}

TEST(FabProjectionTest, PixelsOfAlmostNoSlopeStayInL2) {
  const std::vector<double> w = {1, 1e-8, -2e-8}, point = {0.5, 0.5, 0.5};
  std::vector<double> move(3);
  MoveOntoHyperplane(Norm::kL2, w.data(), 0.6, point.data(), 3, move.data());
  EXPECT_EQ(move, (std::vector<double>{-0.5, 0, 0.5}));
}

TEST(FabProjectionTest, NumbersThatAreNotFiniteMoveNothing) {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()};
  const std::vector<float> point(40, 0.5f);
  for (const Norm norm : kNorms) {
    for (const float number : bad) {
      std::vector<float> w(40, 1.0f), move(40, 7.0f);
      EXPECT_EQ(MoveOntoHyperplane(norm, w.data(), number, point.data(), 40, move.data()), 0);
      EXPECT_EQ(move, std::vector<float>(40, 0.0f));
      w[3] = number;
      move.assign(40, 7.0f);
      EXPECT_EQ(MoveOntoHyperplane(norm, w.data(), 1, point.data(), 40, move.data()), 0);
      EXPECT_EQ(move, std::vector<float>(40, 0.0f));
    }
  }
}

TEST(FabProjectionTest, LibTorchsOperationsFindTheSame) {
  std::mt19937_64 random(TestSeed());
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Norm norm : kNorms) {
    std::vector<float> w, points, excess, expected;
    for (int row = 0; row < 60; ++row) {
      const Case c = RandomCase(&random, 50);
      for (int i = 0; i < 50; ++i) w.push_back(row == 7 && i == 9 ? nan : static_cast<float>(row == 5 ? 0 : c.w[i]));
      points.insert(points.end(), c.point.begin(), c.point.end());
      excess.push_back(static_cast<float>(row == 3 ? 0 : c.excess));
    }
    expected.resize(w.size());
    for (int row = 0; row < 60; ++row) {
      MoveOntoHyperplane(norm, &w[row * 50], excess[row], &points[row * 50], 50, &expected[row * 50]);
    }
    const at::Tensor moves =
        MovesOntoHyperplanes(norm, at::from_blob(w.data(), {60, 50}), at::from_blob(excess.data(), {60}),
                             at::from_blob(points.data(), {60, 50}));
    EXPECT_TRUE(at::allclose(moves, at::from_blob(expected.data(), {60, 50}), 1e-4, 1e-5));
  }
}

class FabTest : public ::testing::Test {
 protected:
  FabTest() {
    at::set_num_threads(1);
    weights_.Initialize(3);
  }

  // To the class behind the label.
  AttackedRows Rows(const std::vector<uint32_t>& ids, const Ball& ball) const {
    AttackedRows out{Converted(GatherBatch(images_, ids), weights_.options()),
                     {},
                     ball,
                     {.seed = 5, .purpose = RandomPurpose::kEvaluationStart}};
    out.targets = (out.batch.labels + 1).remainder(4);
    return out;
  }

  // What Next() returned, with memory of its own.
  static std::vector<AttackRun::Points> Run(FabTargeted run) {
    std::vector<AttackRun::Points> out;
    for (int i = 0; i < run.iterations(); ++i) out.push_back(Copied(run.Next()));
    return out;
  }

  static AttackRun::Points Copied(const AttackRun::Points& points) {
    return {points.x.clone(), points.logits.clone(), points.inside.clone()};
  }

  static void ExpectRow(const AttackRun::Points& a, int64_t i, const AttackRun::Points& b, int64_t k) {
    EXPECT_TRUE(at::equal(a.x[i], b.x[k]));
    EXPECT_TRUE(at::equal(a.logits[i], b.logits[k]));
    EXPECT_TRUE(at::equal(a.inside[i], b.inside[k]));
  }

  const ImageSet images_ = ToyImages(64, 1);
  const std::unique_ptr<Model> model_ = ToyModel();
  ParameterSet weights_{model_->parameters()};
};

TEST_F(FabTest, OneStepCrossesTheBoundaryOfALinearNetwork) {
  const LinearModel model({.image = {1, 8, 8}, .classes = 4});
  ParameterSet weights(model.parameters(), at::kDouble);
  weights.Initialize(2);
  for (const Norm norm : kNorms) {
    AttackedRows rows = Rows({0, 1, 2, 3, 4, 5}, {norm, 0.1});
    rows.batch = Converted(rows.batch, at::kDouble);
    rows.batch.x.mul_(0.5).add_(0.25);  // no pixel comes to its end
    const at::Tensor logits = PaddedLogits(model, weights, rows.batch.x);
    rows.batch.labels.copy_(logits.argmax(1));
    rows.targets = (rows.batch.labels + 1).remainder(4);
    NetworkPasses passes(model, weights);
    passes.Freeze(weights);
    passes.Aim(AttackLoss::kLogitDifference, rows.batch, rows.targets);
    const at::Tensor w = AsRows(passes.AttackPoint(rows.batch.x).gradient);
    const at::Tensor dual = norm == Norm::kL2 ? w.norm(2, 1) : w.abs().sum(1);
    const at::Tensor distance = -passes.LossValues(logits) / dual;
    rows.ball.radius = distance[2].item<double>() * 1.05 * (1 + 1e-9);
    const AttackRun::Points points = FabTargeted(passes, rows, 1, 0).Next();
    const at::Tensor away = AsRows(points.x - rows.batch.x);
    const at::Tensor moved = norm == Norm::kL2 ? away.norm(2, 1) : away.abs().amax(1);
    EXPECT_TRUE(at::allclose(moved, 1.05 * distance, 1e-9));
    EXPECT_TRUE(at::allclose(passes.LossValues(points.logits), 0.05 * distance * dual, 1e-9));
    EXPECT_TRUE(at::equal(points.inside, distance <= distance[2]));
  }
}

// The bookkeeping, by hand: from a wrong point the next step begins 0.9 of the way from the image to it.
TEST_F(FabTest, WrongPointsAreMovedBackBeforeTheNextStep) {
  const LinearModel model({.image = {1, 8, 8}, .classes = 4});
  ParameterSet weights(model.parameters(), at::kDouble);
  weights.Initialize(2);
  AttackedRows rows = Rows({0}, {Norm::kLinf, 0.1});
  rows.batch = Converted(rows.batch, at::kDouble);
  rows.batch.x.mul_(0.5).add_(0.25);
  const at::Tensor logits = PaddedLogits(model, weights, rows.batch.x);
  rows.batch.labels.copy_(logits.argmax(1));
  rows.targets = logits.argsort(1, true).select(1, 1).contiguous();  // so that the nearest boundary is the goal's
  NetworkPasses passes(model, weights);
  passes.Freeze(weights);
  FabTargeted run(passes, rows, 2, 0);
  // Of the difference of the logits, in units of its value at the image: there -1, behind the first step 0.05, moved
  // back -0.055. From there the step goes 1.05 times the distance, a tenth of it from the image.
  const double value = passes.LossValues(logits).item<double>();
  EXPECT_NEAR(passes.LossValues(run.Next().logits).item<double>() / -value, 0.05, 1e-9);
  const double pull = 0.055 / 1.055, at_second = (-0.055 + 1.05 * 0.055) * (1 - pull) + 0.05 * pull;
  EXPECT_NEAR(passes.LossValues(run.Next().logits).item<double>() / -value, at_second, 1e-9);
}

TEST_F(FabTest, PointsAreImagesAndInsideIsWhetherTheyAreInTheBall) {
  for (const Norm norm : kNorms) {
    AttackedRows rows = Rows({0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, {norm, 0.1});
    NetworkPasses passes(*model_, weights_);
    passes.Freeze(weights_);
    const auto distances = [&](const AttackRun::Points& points) {
      const at::Tensor away = AsRows(points.x - rows.batch.x);
      return norm == Norm::kL2 ? away.norm(2, 1) : away.abs().amax(1);
    };
    rows.ball.radius = 1.0001 * distances(Run({passes, rows, 20, 0})[10]).median().item<double>();
    int64_t inside = 0, outside = 0, wrong = 0;
    for (const AttackRun::Points& points : Run({passes, rows, 20, 0})) {
      EXPECT_TRUE(at::equal(points.x.clamp(0, 1), points.x));
      EXPECT_TRUE(at::equal(points.logits, passes.AttackLogits(points.x)));
      EXPECT_TRUE(at::equal(points.inside, distances(points) <= rows.ball.radius));
      inside += points.inside.sum().item<int64_t>();
      outside += 10 - points.inside.sum().item<int64_t>();
      wrong += (points.logits.argmax(1) != rows.batch.labels).sum().item<int64_t>();
    }
    EXPECT_GT(inside, 0);
    EXPECT_GT(outside, 0);
    EXPECT_GT(wrong, 20);
  }
}

TEST_F(FabTest, ARowDoesNotDependOnTheRowsBesideItNorOnWhoLeaves) {
  std::vector<uint32_t> ids(24);
  for (uint32_t i = 0; i < 24; ++i) ids[i] = i;
  for (const int restart : {0, 1}) {
    const Ball ball{Norm::kLinf, 0.1};
    NetworkPasses passes(*model_, weights_);
    passes.Freeze(weights_);
    const auto together = Run({passes, Rows(ids, ball), 6, restart});
    const auto few = Run({passes, Rows({17, 3}, ball), 6, restart});
    FabTargeted leaving(passes, Rows(ids, ball), 6, restart);
    std::vector<uint8_t> keep(24, 0);
    keep[3] = keep[17] = 1;
    for (int i = 0; i < 6; ++i) {
      ExpectRow(few[i], 0, together[i], 17);
      ExpectRow(few[i], 1, together[i], 3);
      const AttackRun::Points left = leaving.Next();
      ExpectRow(left, i < 2 ? 3 : 0, together[i], 3);
      ExpectRow(left, i < 2 ? 17 : 1, together[i], 17);
      if (i == 1) leaving.Keep(keep);
    }
  }
}

// Where there is no gradient, a step only goes a tenth of the way to the image.
TEST_F(FabTest, LaterRunsStartHalfTheRadiusAway) {
  const ParameterSet zeros(model_->parameters());
  for (const Norm norm : kNorms) {
    const AttackedRows rows = Rows({0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, {norm, 0.1});
    rows.batch.x.mul_(0.5).add_(0.25);
    NetworkPasses passes(*model_, zeros);
    passes.Freeze(zeros);
    const at::Tensor away = AsRows(FabTargeted(passes, rows, 1, 1).Next().x - rows.batch.x);
    const at::Tensor distance = norm == Norm::kL2 ? away.norm(2, 1) : away.abs().amax(1);
    EXPECT_TRUE(at::allclose(distance, at::full_like(distance, 0.9 * 0.05), 1e-5));
    EXPECT_TRUE(at::allclose(FabTargeted(passes, rows, 1, 0).Next().x, rows.batch.x, 1e-6));
  }
}

TEST_F(FabTest, LibTorchsOperationsMakeTheSamePoints) {
  ParameterSet weights(model_->parameters(), at::kDouble);
  weights.Initialize(3);
  for (const Norm norm : kNorms) {
    AttackedRows rows = Rows({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}, {norm, 0.1});
    rows.batch = Converted(rows.batch, at::kDouble);
    const auto run = [&](int restart) {
      NetworkPasses passes(*model_, weights);
      passes.Freeze(weights);
      return Run({passes, rows, 10, restart});
    };
    for (const int restart : {0, 1}) {
      const auto on_host = run(restart);
      const HostAsDevice as_device;
      const auto on_device = run(restart);
      for (int i = 0; i < 10; ++i) {
        EXPECT_TRUE(at::allclose(on_host[i].x, on_device[i].x, 0, 1e-9)) << i;
        EXPECT_TRUE(at::allclose(on_host[i].logits, on_device[i].logits, 0, 1e-9)) << i;
        EXPECT_TRUE(at::equal(on_host[i].inside, on_device[i].inside)) << i;
      }
    }
  }
}

}  // namespace
}  // namespace ham::trainer
