#include "worker/trainer/counter_rng.h"

#include <algorithm>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ham::trainer {
namespace {

using ::testing::ElementsAre;

// Known answers of Philox4x32-10 (Random123's kat_vectors).
TEST(CounterRngTest, IsPhilox) {
  EXPECT_THAT(RandomWords({.seed = 0, .purpose = RandomPurpose{0}}, 0),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(RandomWords({.seed = ~uint64_t{0},
                           .purpose = RandomPurpose{0xff},
                           .epoch = 0xffffffff,
                           .sample = 0xffffffff,
                           .step = 0xffffff},
                          0xffffffff),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(RandomWords({.seed = 0x299f31d0a4093822,
                           .purpose = RandomPurpose{0x03},
                           .epoch = 0x13198a2e,
                           .sample = 0x85a308d3,
                           .step = 0x707344},
                          0x243f6a88),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(CounterRngTest, FillsARangeEvenly) {
  std::vector<float> values(100001);
  FillUniform({.seed = 3}, -0.5f, 1.5f, static_cast<int64_t>(values.size()), values.data());
  EXPECT_GE(*std::min_element(values.begin(), values.end()), -0.5f);
  EXPECT_LT(*std::max_element(values.begin(), values.end()), 1.5f);
  EXPECT_NEAR(std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size()), 0.5, 0.01);
}

TEST(CounterRngTest, EveryPartOfTheKeyMatters) {
  const RandomKey key{.seed = 1, .purpose = RandomPurpose::kAttackStart, .epoch = 2, .sample = 3, .step = 4};
  const float value = RandomUnit(key);
  RandomKey other = key;
  other.seed = uint64_t{1} << 32 | 1;
  EXPECT_NE(RandomUnit(other), value);
  other = key;
  other.purpose = RandomPurpose::kRetainedEasy;
  EXPECT_NE(RandomUnit(other), value);
  other = key;
  other.epoch = 3;
  EXPECT_NE(RandomUnit(other), value);
  other = key;
  other.sample = 4;
  EXPECT_NE(RandomUnit(other), value);
  other = key;
  other.step = 5;
  EXPECT_NE(RandomUnit(other), value);
  EXPECT_EQ(RandomUnit(key), value);
}

TEST(CounterRngTest, APermutationIsItsOwnForEachNumberSeedAndPurpose) {
  const auto order = Permutation(5, RandomPurpose::kEpochOrder, 1, 1000);
  auto sorted = order;
  std::sort(sorted.begin(), sorted.end());
  for (uint32_t i = 0; i < 1000; ++i) ASSERT_EQ(sorted[i], i);
  EXPECT_EQ(Permutation(5, RandomPurpose::kEpochOrder, 1, 1000), order);
  EXPECT_NE(Permutation(5, RandomPurpose::kEpochOrder, 2, 1000), order);
  EXPECT_NE(Permutation(6, RandomPurpose::kEpochOrder, 1, 1000), order);
  EXPECT_NE(Permutation(5, RandomPurpose::kExtraOrder, 1, 1000), order);
}

}  // namespace
}  // namespace ham::trainer
