#include "worker/trainer/evaluation/square.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/sign.h>
#include <gtest/gtest.h>

#include "tests/support/linear_model.h"
#include "worker/trainer/device.h"
#include "worker/trainer/models/small_cnn.h"

namespace ham::trainer {
namespace {

using ham::testing::LinearModel;

constexpr Norm kNorms[] = {Norm::kLinf, Norm::kL2};
constexpr ImageShape kShape{3, 12, 8};

// The sides, and the iteration from which each holds.
using Sides = std::vector<std::pair<int, int64_t>>;
Sides SidesOf(Norm norm, int64_t height, int64_t width) {
  Sides out;
  for (int iteration = 0; iteration < 10000; ++iteration) {
    const int64_t side = SquareSide(norm, iteration, height, width);
    if (out.empty() || out.back().second != side) out.emplace_back(iteration, side);
  }
  return out;
}

TEST(SquareSideTest, ShrinksAsTheAuthorsCodeHasIt) {
  EXPECT_EQ(SidesOf(Norm::kLinf, 28, 28),
            (Sides{{0, 25}, {11, 18}, {51, 13}, {201, 9}, {501, 6}, {1001, 4}, {2001, 3}, {4001, 2}, {8001, 1}}));
  EXPECT_EQ(
      SidesOf(Norm::kLinf, 32, 32),
      (Sides{{0, 29}, {11, 20}, {51, 14}, {201, 10}, {501, 7}, {1001, 5}, {2001, 4}, {4001, 3}, {6001, 2}, {8001, 1}}));
  EXPECT_EQ(SidesOf(Norm::kL2, 28, 28), (Sides{{0, 25}, {11, 19}, {51, 13}, {201, 9}, {501, 7}, {1001, 5}, {2001, 3}}));
  EXPECT_EQ(SquareSide(Norm::kLinf, 0, 4, 40), 4);  // fits into the image
  EXPECT_EQ(SquareSide(Norm::kL2, 9999, 2, 40), 2);
}

class SquareTest : public ::testing::Test {
 protected:
  SquareTest() {
    at::set_num_threads(1);
    weights_.Initialize(3);
    double_weights_.Initialize(3);
  }

  // Of random pixels in [low, high], cut to [0, 1]; each with the label that the network gives it.
  AttackedRows Rows(const std::vector<uint32_t>& ids, const Ball& ball, const Model& model, const ParameterSet& weights,
                    float low = -0.2f, float high = 1.2f) const {
    const ImageShape& shape = model.image_shape();
    Batch batch{NewImages(std::ssize(ids), shape), {}, ids};
    float* to = batch.x.data_ptr<float>();
    for (const uint32_t id : ids) {
      FillUniform({.seed = 1, .sample = id}, low, high, shape.size(), to);
      to += shape.size();
    }
    batch.x.clamp_(0, 1);
    batch.labels = PaddedLogits(model, weights, Converted(batch, weights.options()).x).argmax(1);
    return {Converted(batch, weights.options()), {}, ball, {.seed = 5, .step = 2}};
  }
  AttackedRows Rows(const std::vector<uint32_t>& ids, const Ball& ball) const {
    return Rows(ids, ball, *model_, weights_);
  }

  // What a run does, with memory of its own.
  struct Points {
    std::vector<at::Tensor> x, margins;  // true logit minus largest other
  };
  static Points Run(const Model& model, const ParameterSet& weights, const AttackedRows& rows, int steps) {
    NetworkPasses passes(model, weights);
    passes.Freeze(weights);
    Square run(passes, rows, steps);
    Points out;
    for (int i = 0; i < run.iterations(); ++i) {
      const AttackRun::Points points = run.Next();
      EXPECT_FALSE(points.inside.defined());
      out.x.push_back(points.x.clone());
      out.margins.push_back(-passes.LossValues(points.logits));
    }
    return out;
  }
  Points Run(const AttackedRows& rows, int steps) const { return Run(*model_, weights_, rows, steps); }

  const std::unique_ptr<Model> model_ =
      MakeSmallCnn({.image = kShape, .conv1 = 4, .conv2 = 8, .hidden = 16, .classes = 5});
  ParameterSet weights_{model_->parameters()}, double_weights_{model_->parameters(), at::kDouble};
};

TEST_F(SquareTest, PointsAreImagesInTheBall) {
  for (const Norm norm : kNorms) {
    const AttackedRows rows = Rows({0, 1, 2, 3, 4, 5, 6, 7}, {norm, norm == Norm::kL2 ? 0.7 : 0.05});
    for (const at::Tensor& x : Run(rows, 100).x) {
      EXPECT_TRUE(at::equal(x.clamp(0, 1), x));
      const at::Tensor away = AsRows(x - rows.batch.x);
      const at::Tensor distance = norm == Norm::kL2 ? at::norm(away, 2, 1) : at::amax(at::abs(away), 1);
      EXPECT_LE(at::amax(distance, 0).item<double>(), rows.ball.radius * (1 + 1e-5));
    }
  }
}

TEST_F(SquareTest, StartsFromStripesOrFromBumpsOfTheWholeRadius) {
  for (const Norm norm : kNorms) {
    const AttackedRows rows = Rows({0, 1, 2, 3}, {norm, 0.1}, *model_, weights_, 0.25, 0.75);
    const at::Tensor away = Run(rows, 0).x[0] - rows.batch.x;
    if (norm == Norm::kL2) {
      const at::Tensor length = at::norm(AsRows(away), 2, 1);
      EXPECT_TRUE(at::allclose(length, at::full_like(length, 0.1), 1e-5));
      EXPECT_GT((away != 0).sum().item<int64_t>(), away.numel() / 2);
      continue;
    }
    const at::Tensor sign = at::sign(away);
    EXPECT_TRUE(at::allclose(away, sign * 0.1, 1e-5));
    EXPECT_TRUE(at::equal(sign, sign.narrow(2, 0, 1).expand_as(sign)));
    EXPECT_NEAR(sign.narrow(2, 0, 1).mean().item<double>(), 0, 0.3);
  }
}

// Bookkeeping by hand: what is changed is the best point so far, which is the last that is better or wrong.
TEST_F(SquareTest, EachPointIsTheBestSoFarWithASquareChanged) {
  const AttackedRows rows = Rows({0, 1, 2, 3, 4, 5}, {Norm::kLinf, 0.1}, *model_, weights_, 0.25, 0.75);
  const Points points = Run(rows, 60);
  int taken = 0, left = 0, wrong = 0;
  for (int64_t row = 0; row < 6; ++row) {
    at::Tensor best = points.x[0][row];
    double least = points.margins[0][row].item<double>();
    for (int k = 1; k <= 60; ++k) {
      const int64_t side = SquareSide(Norm::kLinf, k - 1, kShape.height, kShape.width);
      const at::Tensor changed = points.x[k][row] - best;
      const at::Tensor sign = (changed * 5).round();
      EXPECT_TRUE(at::allclose(changed, sign * 0.2, 0, 1e-6));  // from one end of the ball to the other
      for (const int64_t dimension : {1, 2}) {
        const at::Tensor lines = (sign != 0).any(0).any(2 - dimension).nonzero();
        if (lines.size(0) == 0) continue;
        const int64_t first = lines[0].item<int64_t>(), last = lines[-1].item<int64_t>();
        EXPECT_LT(last - first, side);
        EXPECT_TRUE(side == kShape.width || last < (dimension == 1 ? kShape.height : kShape.width) - 1);
      }
      for (int64_t c = 0; c < kShape.channels; ++c) {
        EXPECT_LE(sign[c].max().item<double>() - sign[c].min().item<double>(), 1);  // not up and down
      }
      const double margin = points.margins[k][row].item<double>();
      const bool takes = margin < least || margin <= 0;
      (takes ? taken : left)++;
      wrong += margin <= 0;
      if (!takes) continue;
      best = points.x[k][row];
      least = margin;
    }
  }
  EXPECT_GT(taken, 20);
  EXPECT_GT(left, 20);
  EXPECT_GT(wrong, 0);
}

TEST_F(SquareTest, FindsTheBestPointOfALinearNetwork) {
  const LinearModel model({.image = {1, 8, 8}, .classes = 2});
  ParameterSet weights(model.parameters());
  weights.Initialize(2);
  AttackedRows rows = Rows({0, 1, 2, 3}, {}, model, weights, 0.4f, 0.6f);
  NetworkPasses passes(model, weights);
  passes.Freeze(weights);
  passes.Aim(AttackLoss::kMargin, rows.batch);
  const at::Tensor gradient = passes.AttackPoint(rows.batch.x).gradient.clone();
  const at::Tensor margins = -passes.LossValues(passes.Logits(rows.batch.x));
  rows.ball.radius = 0.9 * at::min(margins / at::abs(AsRows(gradient)).sum(1)).item<double>();  // too little to break
  const Points points = Run(model, weights, rows, 2500);
  for (int64_t row = 0; row < 4; ++row) {
    size_t best = 0;
    for (size_t k = 0; k < points.x.size(); ++k) {
      if (points.margins[k][row].item<double>() < points.margins[best][row].item<double>()) best = k;
    }
    const at::Tensor away = (points.x[best][row] - rows.batch.x[row])[0].slice(0, 0, 7).slice(1, 0, 7);
    const at::Tensor sign = at::sign(gradient[row][0].slice(0, 0, 7).slice(1, 0, 7));
    EXPECT_TRUE(at::allclose(away, sign * rows.ball.radius, 1e-4, 1e-7));
  }
}

// It has squared length to move about, which falls as the pyramids find their places.
TEST_F(SquareTest, LowersTheMarginInL2) {
  const AttackedRows rows = Rows({0, 1, 2, 3, 4, 5}, {Norm::kL2, 0.3}, *model_, weights_, 0.25, 0.75);
  const Points points = Run(rows, 300);
  for (int64_t row = 0; row < 6; ++row) {
    double least = points.margins[0][row].item<double>();
    for (const at::Tensor& margins : points.margins) least = std::min(least, margins[row].item<double>());
    EXPECT_LT(least, points.margins[0][row].item<double>());
  }
  for (const at::Tensor& x : points.x) {
    const at::Tensor length = at::norm(AsRows(x - rows.batch.x), 2, 1);
    EXPECT_TRUE(at::allclose(length, at::full_like(length, 0.3), 1e-5));  // no pixel comes to its end
  }
}

TEST_F(SquareTest, ARowDoesNotDependOnTheRowsBesideItNorOnWhoLeaves) {
  std::vector<uint32_t> ids(24);
  for (uint32_t i = 0; i < 24; ++i) ids[i] = i;
  std::vector<uint8_t> keep(24, 0);
  keep[3] = keep[17] = 1;
  for (const Norm norm : kNorms) {
    const Ball ball{norm, 0.1};
    const Points together = Run(Rows(ids, ball), 80), few = Run(Rows({17, 3}, ball), 80);
    NetworkPasses passes(*model_, weights_);
    passes.Freeze(weights_);
    Square leaving(passes, Rows(ids, ball), 80);
    for (int i = 0; i <= 80; ++i) {
      EXPECT_TRUE(at::equal(few.x[i][0], together.x[i][17]));
      EXPECT_TRUE(at::equal(few.x[i][1], together.x[i][3]));
      const at::Tensor left = leaving.Next().x;
      EXPECT_TRUE(at::equal(left[i < 9 ? 3 : 0], together.x[i][3]));
      EXPECT_TRUE(at::equal(left[i < 9 ? 17 : 1], together.x[i][17]));
      if (i == 8) leaving.Keep(keep);
    }
  }
}

TEST_F(SquareTest, RowsSeedsAndRestartsDrawOtherNumbers) {
  for (const Norm norm : kNorms) {
    const AttackedRows rows = Rows({0, 1}, {norm, 0.1}, *model_, weights_, 0.25, 0.75);
    AttackedRows seed = rows, restart = rows, id = rows;
    seed.key.seed = 6;
    restart.key.step = 3;
    id.batch.ids[0] = 7;
    const at::Tensor x = Run(rows, 0).x[0];
    for (const AttackedRows& other : {seed, restart, id})
      EXPECT_FALSE(at::allclose(Run(other, 0).x[0][0], x[0], 0, 1e-3));
    EXPECT_TRUE(at::equal(Run(id, 0).x[0][1], x[1]));
  }
}

TEST_F(SquareTest, LibTorchsOperationsMakeTheSamePoints) {
  std::vector<uint8_t> keep(20, 1);
  keep[2] = keep[11] = 0;
  for (const Norm norm : kNorms) {
    std::vector<uint32_t> ids(20);
    for (uint32_t i = 0; i < 20; ++i) ids[i] = i;
    const AttackedRows rows = Rows(ids, {norm, norm == Norm::kL2 ? 0.7 : 0.05}, *model_, double_weights_);
    const auto run = [&] {
      NetworkPasses passes(*model_, double_weights_);
      passes.Freeze(double_weights_);
      Square square(passes, rows, 80);
      std::vector<at::Tensor> out;
      for (int i = 0; i < square.iterations(); ++i) {
        out.push_back(square.Next().x.clone());
        if (i == 30) square.Keep(keep);
      }
      return out;
    };
    const std::vector<at::Tensor> on_host = run();
    const HostAsDevice as_device;
    const int64_t waits = HostWaits();
    const std::vector<at::Tensor> on_device = run();
    EXPECT_EQ(HostWaits(), waits);
    for (size_t i = 0; i < on_host.size(); ++i) {
      ASSERT_TRUE(at::allclose(on_host[i], on_device[i], 0, norm == Norm::kL2 ? 1e-6 : 1e-12)) << i;
    }
  }
}

}  // namespace
}  // namespace ham::trainer
