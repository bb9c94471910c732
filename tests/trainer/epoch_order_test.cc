#include "worker/trainer/epoch_order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <vector>

#include "worker/trainer/counter_rng.h"

namespace ham::trainer {
namespace {

std::vector<uint32_t> OwnRows(int64_t count) {  // every second row, as a split leaves them
  std::vector<uint32_t> rows(count);
  for (int64_t i = 0; i < count; ++i) rows[i] = static_cast<uint32_t>(2 * i);
  return rows;
}

constexpr ExtraRows kExtra{1000, 300, 0.7};

TEST(EpochOrderTest, WithoutExtraDataIsOnePermutationAnEpoch) {
  const auto own = OwnRows(103);
  const auto order = EpochOrder(5, 3, own, {}, 10);
  const auto permutation = Permutation(5, RandomPurpose::kEpochOrder, 3, 103);
  ASSERT_EQ(order.size(), 103);
  for (size_t i = 0; i < order.size(); ++i) EXPECT_EQ(order[i], own[permutation[i]]);
}

TEST(EpochOrderTest, EachBatchHasItsShareAnywhereInIt) {
  const auto own = OwnRows(103);
  std::vector<int> extra_at(10);  // by place in a whole batch
  for (int epoch = 1; epoch <= 20; ++epoch) {
    const auto order = EpochOrder(5, epoch, own, kExtra, 10);
    ASSERT_EQ(order.size(), 103);
    std::vector<int> extra_in(11);
    for (size_t i = 0; i < order.size(); ++i) {
      EXPECT_LT(order[i], kExtra.first + kExtra.count);
      if (order[i] < kExtra.first) continue;
      ++extra_in[i / 10];
      if (i < 100) ++extra_at[i % 10];
    }
    EXPECT_THAT(extra_in, testing::ElementsAre(7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 2)) << epoch;
  }
  for (const int count : extra_at) EXPECT_NEAR(count, 140, 26);  // four standard deviations
}

TEST(EpochOrderTest, EachKindIsSeenEquallyOftenOverEpochs) {
  const auto own = OwnRows(103);
  std::map<uint32_t, int> seen;
  for (int epoch = 1; epoch <= 50; ++epoch) {
    for (const uint32_t row : EpochOrder(5, epoch, own, kExtra, 10)) ++seen[row];
    if (epoch == 4) {  // 288 extra rows so far: none twice; 124 own rows: all of them
      EXPECT_EQ(std::count_if(seen.begin(), seen.end(), [](auto& s) { return s.first >= 1000; }), 288);
      EXPECT_EQ(std::count_if(seen.begin(), seen.end(), [](auto& s) { return s.first < 1000; }), 103);
    }
  }
  ASSERT_EQ(seen.size(), 403);
  for (const auto& [row, times] : seen) {  // 1550 own rows, 3600 extra rows in 50 epochs
    if (row < 1000) {
      EXPECT_TRUE(times == 15 || times == 16) << row;
    } else {
      EXPECT_EQ(times, 12) << row;
    }
  }
}

TEST(EpochOrderTest, IsAFunctionOfSeedAndEpoch) {
  const auto own = OwnRows(103);
  const auto order = EpochOrder(5, 7, own, kExtra, 10);
  EXPECT_EQ(EpochOrder(5, 7, own, kExtra, 10), order);
  EXPECT_NE(EpochOrder(6, 7, own, kExtra, 10), order);
  EXPECT_NE(EpochOrder(5, 8, own, kExtra, 10), order);
}

TEST(EpochOrderTest, FewExtraRowsComeAgainWithinAnEpoch) {
  const ExtraRows few{1000, 7, 0.7};
  std::map<uint32_t, int> seen;
  for (const uint32_t row : EpochOrder(5, 1, OwnRows(100), few, 10)) ++seen[row];
  for (uint32_t row = 1000; row < 1007; ++row) EXPECT_EQ(seen[row], 10);
}

TEST(EpochOrderTest, SharesAreRoundedToRows) {
  EXPECT_EQ(ExtraRowsOf(0, 128), 0);
  EXPECT_EQ(ExtraRowsOf(0.5, 128), 64);
  EXPECT_EQ(ExtraRowsOf(0.7, 128), 90);
  EXPECT_EQ(ExtraRowsOf(0.5, 1), 1);
  EXPECT_EQ(ExtraRowsOf(0.3, 1), 0);
}

}  // namespace
}  // namespace ham::trainer
