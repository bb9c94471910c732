#include "worker/trainer/global_selection.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/run_ranks.h"

namespace ham::trainer {
namespace {

using ham::testing::RunRanks;
using ::testing::Each;

// Rows 0 to 9; value of row i, whether it is a candidate.
const std::vector<double> kValues = {0.5, 0.9, 0.1, 0.9, 0.3, 0.7, std::nan(""), 0.2, 0.9, 0.6};
const std::vector<uint8_t> kCandidate = {1, 1, 1, 1, 0, 1, 1, 1, 1, 0};

std::vector<uint8_t> Select(double share, int world_size) {
  std::vector<uint8_t> out(kValues.size(), 2);
  RunRanks(world_size, [&](Collective& ranks) {
    std::vector<double> values;
    std::vector<uint32_t> ids;
    std::vector<uint8_t> candidate;
    for (size_t row = ranks.rank(); row < kValues.size(); row += world_size) {
      values.push_back(kValues[row]);
      ids.push_back(row);
      candidate.push_back(kCandidate[row]);
    }
    const auto chosen = SelectLargest(values, ids, candidate, share, 10, ranks);
    ASSERT_TRUE(chosen.ok()) << chosen.status();
    for (size_t i = 0; i < ids.size(); ++i) out[ids[i]] = (*chosen)[i];
  });
  return out;
}

TEST(SelectLargestTest, TakesTheShareOfAllCandidatesWhateverTheRanks) {
  for (const int world_size : {1, 2, 3, 12}) {  // of 12 ranks two have no row
    // Of 8 candidates 2: of three equal values those with the lowest ids.
    EXPECT_EQ(Select(0.25, world_size), (std::vector<uint8_t>{0, 1, 0, 1, 0, 0, 0, 0, 0, 0})) << world_size;
    EXPECT_EQ(Select(0.7, world_size), (std::vector<uint8_t>{1, 1, 0, 1, 0, 1, 0, 0, 1, 0}))
        << world_size;  // 5.6 of them
  }
}

TEST(SelectLargestTest, NoneAndAll) {
  EXPECT_THAT(Select(0, 2), Each(0));
  EXPECT_EQ(Select(1, 2), kCandidate);  // NaN comes last, but comes
}

TEST(SelectLargestTest, ErrorsOfTheRanksPassThrough) {
  RunRanks(2, [](Collective& ranks) {
    if (ranks.rank() == 1) return;  // lost
    EXPECT_FALSE(SelectLargest({1}, {0}, {1}, 1, 1, ranks).ok());
  });
}

}  // namespace
}  // namespace ham::trainer
