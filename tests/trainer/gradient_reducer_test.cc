#include "worker/trainer/gradient_reducer.h"

#include <limits>

#include <gtest/gtest.h>

#include "tests/support/run_ranks.h"
#include "worker/trainer/device.h"

namespace ham::trainer {
namespace {

using ham::testing::RunRanks;

const std::vector<ParameterSpec> kSpecs = {{"w", {3}, {3}, ParameterKind::kWeight, {}}};

// Rank 0 has one row with loss 4, rank 1 three with 0: the mean is 1, not 2.
TEST(GradientReducerTest, RaggedRowsAreDividedOnceByTheGlobalCount) {
  RunRanks(2, [](Collective& ranks) {
    GradientReducer reducer(kSpecs, {});
    const bool first = ranks.rank() == 0;
    for (int i = 0; i < 3; ++i) reducer.gradients().flat().data_ptr<float>()[i] = first ? 8 : 0;
    const StepSums local{.loss = first ? 4.0 : 0.0,
                         .weight = first ? 1.0 : 3.0,
                         .rows = 5,
                         .hard_rows = first ? 1 : 2,
                         .kept_rows = first ? 1 : 3};
    auto reduced = reducer.Reduce(local, ranks);
    ASSERT_TRUE(reduced.ok()) << reduced.status();
    const StepSums& global = reduced->Get();
    EXPECT_EQ(global.loss / global.weight, 1);
    EXPECT_EQ(global.rows, 10);
    EXPECT_EQ(global.hard_rows, 3);
    EXPECT_EQ(global.kept_rows, 4);
    EXPECT_TRUE(global.finite);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(reducer.gradients().flat().data_ptr<float>()[i], 2);
  });
}

// One rank works in parts, the other at once: the same as if both did not.
TEST(GradientReducerTest, PartsAreAddedUp) {
  const std::vector<ParameterSpec> specs = {{"w", {2}, {2}, ParameterKind::kWeight, {}},
                                            {"m", {1}, {1}, ParameterKind::kStatistic, {}}};
  RunRanks(2, [&](Collective& ranks) {
    GradientReducer reducer(specs, {});
    const auto put = [&](float w, float statistic) {
      float* out = reducer.gradients().flat().data_ptr<float>();
      out[0] = w;
      out[1] = 2 * w;
      out[2] = statistic;
    };
    for (int step = 0; step < 2; ++step) {  // the second begins anew
      if (ranks.rank() == 0) {
        put(3, 10);
        reducer.AddPart(1);
        put(5, 20);
        reducer.AddPart(3);
        put(0, 0);
        reducer.AddPart(0);
        put(-1, -1);  // what is left there does not count
      } else {
        put(4, 50);
      }
      const auto global =
          reducer.Reduce({.weight = ranks.rank() == 0 ? 4.0 : 2.0, .kept_rows = ranks.rank() == 0 ? 4 : 1}, ranks);
      ASSERT_TRUE(global.ok());
      const float* out = reducer.gradients().flat().const_data_ptr<float>();
      EXPECT_EQ(out[0], 2);  // (3 + 5 + 4) / 6
      EXPECT_EQ(out[1], 4);
      EXPECT_FLOAT_EQ(out[2], 24);  // (10 + 3 * 20 + 50) / 5
    }
  });
}

TEST(GradientReducerTest, NoRowAnywhereStaysZero) {
  RunRanks(3, [](Collective& ranks) {
    GradientReducer reducer(kSpecs, {});
    auto global = reducer.Reduce({}, ranks);
    ASSERT_TRUE(global.ok());
    EXPECT_EQ(global->Get().weight, 0);
    EXPECT_TRUE(global->Get().finite);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(reducer.gradients().flat().data_ptr<float>()[i], 0);
  });
}

void ExpectNotFinite(absl::StatusOr<GlobalSums> global) {
  ASSERT_TRUE(global.ok()) << global.status();
  EXPECT_FALSE(global->Get().finite);
  const at::Tensor counts = global->Counts(0);
  EXPECT_TRUE(!counts.defined() || !counts.item<bool>());
}

void ExpectNonFiniteNumbersAreSeenByAll() {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::max()}) {  // two of the last overflow when summed
    RunRanks(2, [bad](Collective& ranks) {
      GradientReducer reducer(kSpecs, {});
      reducer.gradients().flat().data_ptr<float>()[1] =
          ranks.rank() == 1 || bad == std::numeric_limits<float>::max() ? bad : 1;
      ExpectNotFinite(reducer.Reduce({.loss = 1, .weight = 1, .rows = 1, .kept_rows = 1}, ranks));
    });
  }
  RunRanks(2, [](Collective& ranks) {
    GradientReducer reducer(kSpecs, {});
    const double loss = ranks.rank() == 0 ? std::numeric_limits<double>::infinity() : 1;
    ExpectNotFinite(reducer.Reduce({.loss = loss, .weight = 1, .kept_rows = 1}, ranks));
  });
}

TEST(GradientReducerTest, ANonFiniteNumberOnOneRankIsSeenByAll) {
  ExpectNonFiniteNumbersAreSeenByAll();
  const HostAsDevice as_device;
  ExpectNonFiniteNumbersAreSeenByAll();
}

TEST(GradientReducerTest, ADeviceKnowsItselfWhetherAStepCounts) {
  const HostAsDevice as_device;
  RunRanks(2, [](Collective& ranks) {
    GradientReducer reducer(kSpecs, {});
    auto global = reducer.Reduce({.loss = 1, .weight = 1, .rows = 4, .kept_rows = ranks.rank() + 2}, ranks);
    ASSERT_TRUE(global.ok()) << global.status();
    EXPECT_TRUE(global->Counts(5).item<bool>());
    EXPECT_FALSE(global->Counts(6).item<bool>());
    EXPECT_EQ(global->Get().kept_rows, 5);
  });
}

}  // namespace
}  // namespace ham::trainer
