#include "worker/trainer/rank_balance.h"

#include <map>
#include <numeric>
#include <random>
#include <set>

#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/rand.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/synchronization/mutex.h"
#include "tests/support/run_ranks.h"
#include "tests/support/seed.h"
#include "tests/support/toy_images.h"
#include "worker/trainer/perturbation.h"

namespace ham::trainer {
namespace {

using ham::testing::RunRanks;
using ham::testing::ToyImages;
using ::testing::ElementsAre;

TEST(EvenSharesTest, DealsOutAllRowsAndMovesAsFewAsItCan) {
  EXPECT_THAT(EvenShares({7}), ElementsAre(7));
  EXPECT_THAT(EvenShares({0, 0, 0}), ElementsAre(0, 0, 0));
  EXPECT_THAT(EvenShares({9, 0, 0}), ElementsAre(3, 3, 3));
  EXPECT_THAT(EvenShares({1, 5, 2}), ElementsAre(2, 3, 3));
  EXPECT_THAT(EvenShares({3, 3, 2}), ElementsAre(3, 3, 2));  // nothing to do
  EXPECT_THAT(EvenShares({2, 2, 3}), ElementsAre(2, 2, 3));
  EXPECT_THAT(EvenShares({0, 1}), ElementsAre(0, 1));
}

// Rows `ids` of a data set in the middle of an attack: everything about a row is a function of its id.
RowsUnderAttack Rows(const ImageSet& images, const std::vector<uint32_t>& ids, WeightMode mode) {
  Batch batch = GatherAugmented(images, ids, {.cutmix = 0.5}, {.seed = 1}, std::vector<uint32_t>{0, 1, 2});
  const at::Tensor x = RandomStart(batch, {Norm::kLinf, 0.1}, {.purpose = RandomPurpose::kAttackStart});
  BoundaryTrace trace(batch.labels, mode);
  for (const int step : {0, 1, 2}) {
    const at::Tensor logits = at::empty({batch.rows(), 4}, at::kDouble);
    for (int64_t row = 0; row < batch.rows(); ++row) {
      float values[4];
      FillUniform({.seed = 9, .sample = ids[row], .step = static_cast<uint32_t>(step)}, -1, 1, 4, values);
      std::copy_n(values, 4, logits.data_ptr<double>() + 4 * row);
    }
    if (batch.rows() > 0 || step == 2) trace.Observe(logits);  // an attack on no rows takes no steps
  }
  return {std::move(batch), x, std::move(trace)};
}

class BalanceRowsTest : public ::testing::TestWithParam<WeightMode> {};

TEST_P(BalanceRowsTest, EveryRowArrivesOnceAsItWas) {
  const ImageSet images = ToyImages(60, 1);
  std::mt19937_64 random(testing::TestSeed());
  for (int round = 0; round < 20; ++round) {
    const int ranks = 1 + static_cast<int>(random() % 4);
    std::vector<std::vector<uint32_t>> ids(ranks);
    for (uint32_t id = 0; id < 60; ++id) {
      if (random() % 3 != 0) ids[random() % 2 == 0 ? 0 : random() % ranks].push_back(id);
    }
    std::vector<int64_t> counts;
    for (const auto& own : ids) counts.push_back(static_cast<int64_t>(own.size()));
    absl::Mutex mutex;
    std::set<uint32_t> seen;
    RunRanks(ranks, [&](Collective& collective) {
      RowsUnderAttack rows = Rows(images, ids[collective.rank()], GetParam());
      ASSERT_TRUE(BalanceRows(4, collective, &rows).ok());
      ASSERT_EQ(rows.clean.rows(), EvenShares(counts)[collective.rank()]);
      EXPECT_TRUE(std::is_sorted(rows.clean.ids.begin(), rows.clean.ids.end()));
      const RowsUnderAttack expected = Rows(images, rows.clean.ids, GetParam());
      EXPECT_TRUE(at::equal(rows.clean.x, expected.clean.x));
      EXPECT_EQ(rows.clean.x.strides(), expected.clean.x.strides());
      EXPECT_TRUE(at::equal(rows.clean.labels, expected.clean.labels));
      EXPECT_TRUE(at::equal(rows.clean.targets, expected.clean.targets));
      EXPECT_TRUE(at::equal(rows.x, expected.x));
      EXPECT_EQ(rows.trace.first_wrong(), expected.trace.first_wrong());
      EXPECT_EQ(rows.trace.Weights(2), expected.trace.Weights(2));
      absl::MutexLock lock(&mutex);
      for (const uint32_t id : rows.clean.ids) EXPECT_TRUE(seen.insert(id).second) << id;
    });
    EXPECT_EQ(seen.size(), std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  }
}

TEST_P(BalanceRowsTest, ARowThatMovedIsObservedOnward) {
  const ImageSet images = ToyImages(60, 1);
  RunRanks(2, [&](Collective& collective) {
    RowsUnderAttack rows =
        Rows(images, collective.rank() == 0 ? std::vector<uint32_t>{5, 6, 7, 8} : std::vector<uint32_t>{}, GetParam());
    ASSERT_TRUE(BalanceRows(4, collective, &rows).ok());
    RowsUnderAttack expected = Rows(images, rows.clean.ids, GetParam());
    const at::Tensor logits = at::rand({2, 4}, at::kDouble);
    rows.trace.Observe(logits);
    expected.trace.Observe(logits);
    EXPECT_EQ(rows.trace.Weights(2), expected.trace.Weights(2));
    EXPECT_EQ(rows.trace.first_wrong(), expected.trace.first_wrong());
  });
}

INSTANTIATE_TEST_SUITE_P(Modes, BalanceRowsTest,
                         ::testing::Values(WeightMode::kEqual, WeightMode::kFirstCross, WeightMode::kDeltaMax,
                                           WeightMode::kKappa));

TEST(BalanceRowsErrorTest, IsTheCollectives) {
  const ImageSet images = ToyImages(60, 1);
  RunRanks(2, [&](Collective& collective) {
    if (collective.rank() == 1) return;  // never comes
    RowsUnderAttack rows = Rows(images, {1}, WeightMode::kEqual);
    EXPECT_FALSE(BalanceRows(4, collective, &rows).ok());
  });
}

}  // namespace
}  // namespace ham::trainer
