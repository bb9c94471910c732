#include "proto/evaluation/intervals.h"

#include <gtest/gtest.h>

#include <cmath>

namespace ham {
namespace {

TEST(WilsonIntervalTest, IsAsInTables) {
  const Interval some = WilsonInterval(8, 10);
  EXPECT_NEAR(some.low, 0.4901625, 5e-8);
  EXPECT_NEAR(some.high, 0.9433178, 5e-8);
  const Interval none = WilsonInterval(0, 10);
  EXPECT_EQ(none.low, 0);
  EXPECT_NEAR(none.high, 0.2775328, 5e-8);
  const Interval all = WilsonInterval(10, 10);
  EXPECT_NEAR(all.low, 1 - 0.2775328, 5e-8);
  EXPECT_EQ(all.high, 1);
}

TEST(WilsonIntervalTest, HoldsItsShareAndHasNoneOfNothing) {
  for (int64_t whole : {1, 7, 1000}) {
    for (int64_t part = 0; part <= whole; ++part) {
      const Interval interval = WilsonInterval(part, whole);
      const double share = static_cast<double>(part) / static_cast<double>(whole);
      EXPECT_TRUE(0 <= interval.low && interval.low <= share && share <= interval.high && interval.high <= 1)
          << part << " of " << whole;
    }
  }
  EXPECT_TRUE(std::isnan(WilsonInterval(0, 0).low));
  EXPECT_TRUE(std::isnan(WilsonInterval(0, 0).high));
}

TEST(PercentileIntervalTest, TakesTheValuesThatTheDefinitionNames) {
  std::vector<double> values;
  for (int i = 200; i >= 1; --i) values.push_back(i);
  EXPECT_EQ(PercentileInterval(values).low, 5);     // 5 of 200 are 2.5 %
  EXPECT_EQ(PercentileInterval(values).high, 195);  // 195 of 200 are 97.5 %
  values.push_back(201);
  EXPECT_EQ(PercentileInterval(values).low, 6);  // 5 of 201 are less
  EXPECT_EQ(PercentileInterval(values).high, 196);
  EXPECT_EQ(PercentileInterval({3}).low, 3);
}

TEST(PercentileIntervalTest, LeavesNanOut) {
  const double nan = std::nan("");
  EXPECT_EQ(PercentileInterval({nan, 2, nan}).low, 2);
  EXPECT_EQ(PercentileInterval({nan, 2, nan}).high, 2);
  EXPECT_TRUE(std::isnan(PercentileInterval({nan}).low));
}

TEST(ResamplerTest, DrawsAsManyRowsAsThereAre) {
  Resampler resampler(1);
  for (int64_t rows = 0; rows < 20; ++rows) {
    const auto drawn = resampler.Draw<3>({rows, 2 * rows, 1});
    EXPECT_EQ(drawn[0] + drawn[1] + drawn[2], 3 * rows + 1);
  }
  EXPECT_EQ((resampler.Draw<2>({9, 0})), (std::array<int64_t, 2>{9, 0}));
  EXPECT_EQ((resampler.Draw<2>({0, 9})), (std::array<int64_t, 2>{0, 9}));
  EXPECT_EQ((resampler.Draw<3>({0, 9, 0})), (std::array<int64_t, 3>{0, 9, 0}));
  EXPECT_EQ((resampler.Draw<2>({0, 0})), (std::array<int64_t, 2>{0, 0}));
}

// Every outcome of three rows of kinds 0, 1, 1 against its multinomial probability.
TEST(ResamplerTest, DrawsWithReplacement) {
  constexpr int kDraws = 90000;
  int seen[4] = {};
  int seen_three[4][4] = {};
  Resampler resampler(2);
  for (int i = 0; i < kDraws; ++i) {
    ++seen[resampler.Draw<2>({1, 2})[0]];
    const auto drawn = resampler.Draw<3>({1, 1, 1});
    ++seen_three[drawn[0]][drawn[1]];
  }
  const double factorial[] = {1, 1, 2, 6};
  const auto expect = [](int count, double p, const std::string& what) {
    EXPECT_NEAR(count, kDraws * p, 5 * std::sqrt(kDraws * p * (1 - p))) << what;
  };
  for (int k = 0; k <= 3; ++k) {
    const double ways = 6 / (factorial[k] * factorial[3 - k]);
    expect(seen[k], ways * std::pow(2, 3 - k) / 27, "of two kinds " + std::to_string(k));
    for (int m = 0; k + m <= 3; ++m) {
      expect(seen_three[k][m], 6 / (factorial[k] * factorial[m] * factorial[3 - k - m]) / 27,
             "of three kinds " + std::to_string(k) + ", " + std::to_string(m));
    }
  }
}

TEST(ResamplerTest, DependsOnTheSeedAlone) {
  Resampler one(5), same(5), other(6);
  int equal = 0;
  for (int i = 0; i < 50; ++i) {
    const auto drawn = one.Draw<2>({500, 500});
    EXPECT_EQ(drawn, (same.Draw<2>({500, 500})));
    equal += drawn == other.Draw<2>({500, 500});
  }
  EXPECT_LT(equal, 10);
  // A number that every platform must give, so that figures can be checked elsewhere.
  EXPECT_EQ((Resampler(5).Draw<2>({500, 500})[0]), 476);
}

}  // namespace
}  // namespace ham
