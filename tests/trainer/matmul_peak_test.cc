#include "worker/trainer/matmul_peak.h"

#include <algorithm>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/rand.h>
#include <gtest/gtest.h>

namespace ham::trainer {
namespace {

// Says that each product took the next of `seconds`, or the last one.
class ProductClock : public PhaseClock {
 public:
  explicit ProductClock(std::vector<double> seconds) : seconds_(std::move(seconds)) {}
  void Mark() override { ++marks_; }
  std::vector<double> Take(size_t count) override {
    EXPECT_EQ(count, 2);
    EXPECT_EQ(marks_, 2 * (products + 1));
    const double took = seconds_[std::min(products++, seconds_.size() - 1)];
    return {0, took};
  }

  size_t products = 0;

 private:
  std::vector<double> seconds_;
  size_t marks_ = 0;
};

double Flops(double size) { return 2 * size * size * size; }

TEST(MatmulPeakTest, IsTheQuickestProductOfTheSizeThatIsLongEnough) {
  // 256: prepared, then 1 ms; 512: prepared, then 10 ms, and again until 60 ms are spent.
  ProductClock clock({9, 0.001, 9, 0.010, 0.012, 0.008, 0.010, 0.030, 0.001});
  EXPECT_DOUBLE_EQ(MeasureMatmulPeak(at::kFloat, clock), Flops(512) / 0.008);
  EXPECT_EQ(clock.products, 8);
}

TEST(MatmulPeakTest, IsPositiveOnThisHostInEachTypeAndDrawsNoNumbers) {
  at::set_num_threads(1);
  at::manual_seed(1);
  const at::Tensor expected = at::rand({4});
  at::manual_seed(1);
  HostClock clock;
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    EXPECT_GT(MeasureMatmulPeak(type, clock), 1e6) << type;
  }
  EXPECT_TRUE(at::equal(at::rand({4}), expected));
}

}  // namespace
}  // namespace ham::trainer
