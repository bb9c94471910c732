#include "worker/trainer/collective.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"
#include "worker/trainer/gloo_collective.h"

namespace ham::trainer {
namespace {

using testing::RankBody;
using testing::RunGlooRanks;
using testing::RunRanks;

struct Kind {
  std::string name;
  int world_size;
  bool gloo;
};

class CollectiveTest : public ::testing::TestWithParam<Kind> {
 protected:
  void Run(const RankBody& body) {
    if (GetParam().gloo) {
      RunGlooRanks(GetParam().world_size, body);
    } else {
      RunRanks(GetParam().world_size, body);
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Kinds, CollectiveTest,
                         ::testing::Values(Kind{"Threads1", 1, false}, Kind{"Threads3", 3, false},
                                           Kind{"Gloo1", 1, true}, Kind{"Gloo2", 2, true}, Kind{"Gloo3", 3, true}),
                         [](const auto& kind) { return kind.param.name; });

absl::Status SumFloats(Collective& ranks, float* values, int64_t count) {
  at::Tensor tensor = at::from_blob(values, {count}, at::kFloat);
  return ranks.AllReduceSum(tensor);
}

// Values of one rank, of very different sizes, so that the order of adding shows in the last bits.
std::vector<float> RaggedValues(uint32_t seed, int rank, int64_t count) {
  std::mt19937 random(seed * 101 + static_cast<uint32_t>(rank));
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random) * std::pow(10.0F, normal(random));
  return values;
}

TEST_P(CollectiveTest, SumsAreRightAndEqualBitForBitOnAllRanks) {
  constexpr uint32_t kSeed = 7;
  SCOPED_TRACE("seed 7");
  for (const int64_t count : {1, 2, 3, 5, 64, 1000, 206'923}) {
    std::mutex mutex;
    std::vector<std::vector<float>> results;
    Run([&](Collective& ranks) {
      std::vector<float> values = RaggedValues(kSeed, ranks.rank(), count);
      ASSERT_TRUE(SumFloats(ranks, values.data(), count).ok());
      const std::lock_guard lock(mutex);
      results.push_back(std::move(values));
    });
    ASSERT_EQ(results.size(), static_cast<size_t>(GetParam().world_size));
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
      double sum = 0, size = 0;
      for (int rank = 0; rank < GetParam().world_size && count <= 1000; ++rank) {
        const float value = RaggedValues(kSeed, rank, count)[i];
        sum += value;
        size += std::fabs(value);
      }
      if (count <= 1000) {
        ASSERT_NEAR(results[0][i], sum, size * 1e-6 + 1e-30) << i;
      }
      for (const std::vector<float>& other : results) {
        ASSERT_EQ(std::bit_cast<uint32_t>(other[i]), std::bit_cast<uint32_t>(results[0][i])) << i;
      }
    }
  }
}

TEST_P(CollectiveTest, TheSameSumTwiceHasTheSameBits) {
  std::vector<std::vector<float>> results(2);
  for (std::vector<float>& result : results) {
    Run([&](Collective& ranks) {
      std::vector<float> values = RaggedValues(3, ranks.rank(), 10'000);
      ASSERT_TRUE(SumFloats(ranks, values.data(), 10'000).ok());
      if (ranks.rank() == 0) result = std::move(values);
    });
  }
  ASSERT_EQ(results[0].size(), 10'000U);
  EXPECT_EQ(std::memcmp(results[0].data(), results[1].data(), 40'000), 0);
}

TEST_P(CollectiveTest, SumsDoublesAndTensors) {
  Run([](Collective& ranks) {
    const int n = ranks.world_size();
    double values[2] = {1.0 + ranks.rank(), 0.5};
    ASSERT_TRUE(ranks.AllReduceSum(values, 2).ok());
    EXPECT_EQ(values[0], n * (n + 1) / 2.0);
    EXPECT_EQ(values[1], n * 0.5);
    at::Tensor flat = at::arange(5, at::kFloat);
    ASSERT_TRUE(ranks.AllReduceSum(flat).ok());
    for (int i = 0; i < 5; ++i) EXPECT_EQ(flat.const_data_ptr<float>()[i], static_cast<float>(n * i));
    at::Tensor empty = at::zeros({0}, at::kDouble);
    ASSERT_TRUE(ranks.AllReduceSum(empty).ok());
    EXPECT_EQ(ranks.sequence(), 3);
  });
}

TEST_P(CollectiveTest, ARankWithNothingToAddJoinsWithZeros) {
  Run([](Collective& ranks) {
    // Losses and hard rows of a rank: rank 0 one row of loss 4, the others none.
    float sums[2] = {ranks.rank() == 0 ? 4.0F : 0.0F, ranks.rank() == 0 ? 1.0F : 0.0F};
    ASSERT_TRUE(SumFloats(ranks, sums, 2).ok());
    EXPECT_EQ(sums[0] / sums[1], 4.0F);
  });
}

TEST_P(CollectiveTest, NanReachesEveryRank) {
  Run([](Collective& ranks) {
    float value = ranks.rank() == ranks.world_size() - 1 ? NAN : 1.0F;
    ASSERT_TRUE(SumFloats(ranks, &value, 1).ok());
    EXPECT_TRUE(std::isnan(value));
  });
}

TEST_P(CollectiveTest, GathersInTheOrderOfRanks) {
  Run([](Collective& ranks) {
    const int64_t mine[2] = {ranks.rank(), ranks.rank() * 10};
    std::vector<int64_t> all(2 * static_cast<size_t>(ranks.world_size()));
    ASSERT_TRUE(ranks.AllGather(mine, sizeof mine, all.data()).ok());
    for (int rank = 0; rank < ranks.world_size(); ++rank) {
      EXPECT_EQ(all[2 * static_cast<size_t>(rank)], rank);
      EXPECT_EQ(all[2 * static_cast<size_t>(rank) + 1], rank * 10);
    }
  });
}

TEST_P(CollectiveTest, NoRankLeavesABarrierBeforeAllHaveCome) {
  std::atomic<int> arrived{0};
  Run([&](Collective& ranks) {
    for (int round = 1; round <= 20; ++round) {
      ++arrived;
      ASSERT_TRUE(ranks.Barrier().ok());
      EXPECT_GE(arrived, round * ranks.world_size());
    }
    EXPECT_EQ(ranks.sequence(), 20);
  });
}

TEST_P(CollectiveTest, CountsACallThatWaits) {
  absl::Notification waited_for;
  Run([&](Collective& ranks) {
    const bool last = ranks.rank() == ranks.world_size() - 1;
    std::thread looks;
    if (ranks.rank() == 0 && !last) {
      looks = std::thread([&] {
        while (ranks.counts().begun == 0) std::this_thread::yield();
        EXPECT_EQ(ranks.counts(), (CollectiveCounts{.begun = 1, .completed = 0, .seconds = 0}));
        waited_for.Notify();
      });
    } else if (last && ranks.world_size() > 1) {
      waited_for.WaitForNotification();
    }
    ASSERT_TRUE(ranks.Barrier().ok());
    if (looks.joinable()) looks.join();
    EXPECT_EQ(ranks.counts().begun, 1);
    EXPECT_EQ(ranks.counts().completed, 1);
    EXPECT_GT(ranks.counts().seconds, 0);
  });
}

TEST(LostRankTest, GoesWithTheStatus) {
  const absl::Status plain = absl::UnavailableError("lost the connection");
  EXPECT_EQ(LostRankOf(plain), std::nullopt);
  EXPECT_EQ(LostRankOf(absl::OkStatus()), std::nullopt);
  const absl::Status lost = WithLostRank(plain, 12);
  EXPECT_EQ(LostRankOf(lost), 12);
  EXPECT_EQ(lost.message(), plain.message());
}

TEST_P(CollectiveTest, AMisuseFailsTheGroupForGood) {
  RunRanks(1, [](Collective& ranks) {
    at::Tensor wrong = at::zeros({2}, at::kLong);
    const absl::Status first = ranks.AllReduceSum(wrong);
    EXPECT_TRUE(absl::IsInternal(first)) << first;
    double good = 1;
    EXPECT_EQ(ranks.AllReduceSum(&good, 1), first);
    EXPECT_EQ(ranks.sequence(), 0);
  });
  RunRanks(1, [](Collective& ranks) {
    at::Tensor strided = at::zeros({4, 4}).t().slice(0, 0, 2);
    EXPECT_TRUE(absl::IsInternal(ranks.AllReduceSum(strided)));
  });
}

TEST(ThreadCollectiveTest, ARankThatLeavesOrDiffersFailsTheOthers) {
  RunRanks(2, [](Collective& ranks) {
    if (ranks.rank() == 1) return;
    EXPECT_TRUE(absl::IsUnavailable(ranks.Barrier()));
  });
  RunRanks(2, [](Collective& ranks) {
    double values[2] = {0, 0};
    EXPECT_TRUE(absl::IsInvalidArgument(ranks.AllReduceSum(values, 1 + ranks.rank())));
  });
}

TEST(LocalCollectiveTest, IsAGroupOfOne) {
  const auto ranks = MakeLocalCollective();
  EXPECT_EQ(ranks->rank(), 0);
  EXPECT_EQ(ranks->world_size(), 1);
  int out = 0;
  const int in = 5;
  EXPECT_TRUE(ranks->AllGather(&in, sizeof in, &out).ok());
  EXPECT_EQ(out, 5);
  EXPECT_TRUE(ranks->Barrier().ok());
  EXPECT_EQ(ranks->sequence(), 2);
}

TEST(ConnectGlooTest, NamesTheRankThatDidNotComeUp) {
  testing::MemoryStore store;
  GlooOptions options;
  options.rank = 1;
  options.world_size = 2;
  options.patience = absl::Milliseconds(300);
  const absl::Time begin = absl::Now();
  const absl::Status status = ConnectGloo(options, store).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_NE(status.message().find("rank 0 did not come up"), std::string::npos) << status;
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
}

TEST(ConnectGlooTest, RefusesBadOptions) {
  testing::MemoryStore store;
  GlooOptions options;
  options.world_size = 2;
  options.patience = absl::Milliseconds(300);
  const auto refused = [&](auto change) {
    GlooOptions changed = options;
    change(changed);
    return absl::IsFailedPrecondition(ConnectGloo(changed, store).status());
  };
  EXPECT_TRUE(refused([](GlooOptions& o) { o.rank = 2; }));
  EXPECT_TRUE(refused([](GlooOptions& o) { o.rank = -1; }));
  EXPECT_TRUE(refused([](GlooOptions& o) { o.world_size = 0; }));
  EXPECT_TRUE(refused([](GlooOptions& o) { o.timeout = absl::ZeroDuration(); }));
  EXPECT_TRUE(refused([](GlooOptions& o) { o.timeout = absl::InfiniteDuration(); }));
  EXPECT_TRUE(refused([](GlooOptions& o) { o.patience = absl::ZeroDuration(); }));
  EXPECT_TRUE(refused([](GlooOptions& o) { o.interface = "no-such-if0"; }));
  EXPECT_TRUE(refused([](GlooOptions& o) { o.address = "192.0.2.1"; }));
}

TEST(ConnectGlooTest, AStoreThatFailsIsSeen) {
  testing::TemporaryDirectory directory;
  testing::WriteTestFile(directory / "file", "");
  const auto store = MakeFileStore(directory / "file/under");
  GlooOptions options;
  options.world_size = 2;
  options.timeout = absl::Seconds(5);
  EXPECT_TRUE(absl::IsUnavailable(ConnectGloo(options, *store).status()));
}

TEST(ConnectGlooTest, BindsToANamedInterface) {
  testing::MemoryStore store;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&store, rank] {
      GlooOptions options;
      options.rank = rank;
      options.world_size = 2;
      options.interface = "lo";
      auto ranks = ConnectGloo(options, store);
      ASSERT_TRUE(ranks.ok()) << ranks.status();
      EXPECT_TRUE((*ranks)->Barrier().ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(GlooBindingTest, ThisProgramBoundDebiansGloo) { EXPECT_EQ(CheckGlooBinding(), absl::OkStatus()); }

}  // namespace
}  // namespace ham::trainer
