#include "worker/trainer/boundary_trace.h"

#include <cmath>

#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ham::trainer {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;

// Logits of two classes with softmax (p, 1 - p) in each row.
at::Tensor Logits(const std::vector<double>& p) {
  at::Tensor out = at::tensor(std::vector<double>(2 * p.size()), at::kDouble).view({-1, 2});
  for (size_t row = 0; row < p.size(); ++row) {
    out.data_ptr<double>()[2 * row] = std::log(p[row]);
    out.data_ptr<double>()[2 * row + 1] = std::log(1 - p[row]);
  }
  return out;
}

// Three rows of class 0: never wrong, wrong from x_1 on, wrong at x_0 and right again. M = 2.
void Observe(BoundaryTrace* trace) {
  trace->Observe(Logits({0.9, 0.6, 0.3}));
  trace->Observe(Logits({0.8, 0.4, 0.7}));
  trace->Observe(Logits({0.7, 0.2, 0.4}));
}

const at::Tensor kLabels = at::tensor(std::vector<int64_t>{0, 0, 0}, at::kLong);

TEST(BoundaryTraceTest, FindsTheFirstWrongIterate) {
  BoundaryTrace trace(kLabels, WeightMode::kEqual);
  Observe(&trace);
  EXPECT_THAT(trace.first_wrong(), ElementsAre(3, 1, 0));
  EXPECT_THAT(trace.Weights(2), ElementsAre(1, 1, 1));
}

TEST(BoundaryTraceTest, WeightsByTheWayFromTheFirstCrossing) {
  BoundaryTrace trace(kLabels, WeightMode::kFirstCross);
  Observe(&trace);
  const double root = std::sqrt(2.0);  // p moves in both classes
  EXPECT_THAT(trace.Weights(2),
              ElementsAre(0.1, DoubleNear(0.1 + 0.2 * root, 1e-12), DoubleNear(0.1 + 0.1 * root, 1e-12)));
}

TEST(BoundaryTraceTest, WeightsByTheLargestChange) {
  BoundaryTrace trace(kLabels, WeightMode::kDeltaMax);
  Observe(&trace);
  EXPECT_THAT(trace.Weights(2), ElementsAre(DoubleNear(0.3, 1e-12), DoubleNear(0.5, 1e-12), DoubleNear(0.9, 1e-12)));
}

TEST(BoundaryTraceTest, WeightsByKappaAroundHalfTheMiningStep) {
  BoundaryTrace trace(kLabels, WeightMode::kKappa);
  Observe(&trace);  // right at 2, 1 and 1 of x_0 and x_1, and so at 3, 1 and 1 of all: what counts ends at M
  const double at_half = (std::tanh(-1.0) + 1) / 2, at_all = (std::tanh(-6.0) + 1) / 2;
  EXPECT_THAT(trace.Weights(2),
              ElementsAre(DoubleNear(at_all, 1e-12), DoubleNear(at_half, 1e-12), DoubleNear(at_half, 1e-12)));
}

TEST(BoundaryTraceTest, GoesOnWithTheRowsThatAreKept) {
  BoundaryTrace trace(kLabels, WeightMode::kFirstCross);
  trace.Observe(Logits({0.9, 0.6, 0.3}));
  trace.Keep({0, 1, 1});
  trace.Observe(Logits({0.4, 0.2, 0.5}));  // the last row is padding
  EXPECT_THAT(trace.first_wrong(), ElementsAre(1, 0));
  EXPECT_THAT(trace.Weights(2), ElementsAre(DoubleNear(0.1, 1e-12), DoubleNear(0.1 + 0.1 * std::sqrt(2.0), 1e-12)));
}

TEST(BoundaryTraceTest, NoRows) {
  BoundaryTrace trace(kLabels.narrow(0, 0, 0), WeightMode::kFirstCross);
  trace.Observe(Logits({0.5}));
  EXPECT_TRUE(trace.Weights(1).empty());
}

}  // namespace
}  // namespace ham::trainer
