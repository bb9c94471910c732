#include "worker/trainer/weight_average.h"

#include <gtest/gtest.h>

namespace ham::trainer {
namespace {

std::vector<ParameterSpec> AveragedSpecs() {
  std::vector<ParameterSpec> specs;
  specs.push_back({"w", {2}, {2}, ParameterKind::kWeight, {}});
  specs.push_back({"mean", {1}, {1}, ParameterKind::kStatistic, {}});
  return specs;
}

ParameterSet Values(double value) {
  ParameterSet out(AveragedSpecs(), at::kDouble);
  for (int64_t i = 0; i < out.size(); ++i) out.flat().data_ptr<double>()[i] = value * static_cast<double>(i + 1);
  return out;
}

void ExpectValues(const ParameterSet& actual, double value) {
  for (int64_t i = 0; i < actual.size(); ++i) {
    EXPECT_DOUBLE_EQ(actual.flat().data_ptr<double>()[i], value * static_cast<double>(i + 1)) << i;
  }
}

TrainSpec SpecOf(double ema_decay, int swa_start_epoch) {
  TrainSpec spec;
  spec.ema_decay = ema_decay;
  spec.swa_start_epoch = swa_start_epoch;
  return spec;
}

TEST(WeightAverageTest, WithoutOneTheWeightsAreUsed) {
  WeightAverage average(SpecOf(0, 0), Values(1));
  average.AfterUpdate(Values(2));
  average.AfterEpoch(1, Values(2));
  ExpectValues(average.Or(Values(2)), 2);
  TensorMap state;
  average.Export(&state);
  EXPECT_TRUE(state.empty());
  EXPECT_TRUE(average.Import(state).ok());
}

TEST(WeightAverageTest, ExponentialMovesByOneMinusDecayAtEachUpdate) {
  WeightAverage average(SpecOf(0.75, 0), Values(1));
  average.AfterUpdate(Values(5));
  ExpectValues(average.Or(Values(9)), 2);
  average.AfterEpoch(1, Values(5));
  ExpectValues(average.Or(Values(9)), 2);
}

TEST(WeightAverageTest, StochasticIsTheEqualAverageOfEpochEndsFromItsStart) {
  WeightAverage average(SpecOf(0, 2), Values(100));
  average.AfterUpdate(Values(50));
  average.AfterEpoch(1, Values(7));
  ExpectValues(average.Or(Values(7)), 7);
  average.AfterEpoch(2, Values(1));
  ExpectValues(average.Or(Values(9)), 1);
  average.AfterEpoch(3, Values(2));
  average.AfterEpoch(4, Values(6));
  ExpectValues(average.Or(Values(9)), 3);
}

TEST(WeightAverageTest, GoesOnExactlyFromExportedState) {
  for (const TrainSpec& spec : {SpecOf(0.9, 0), SpecOf(0, 1)}) {
    WeightAverage first(spec, Values(1)), second(spec, Values(1));
    first.AfterUpdate(Values(3));
    first.AfterEpoch(1, Values(3));
    first.AfterEpoch(2, Values(0.7));
    TensorMap state;
    first.Export(&state);
    ASSERT_TRUE(second.Import(state).ok());
    for (WeightAverage* average : {&first, &second}) {
      average->AfterUpdate(Values(0.1));
      average->AfterEpoch(3, Values(0.1));
    }
    const ParameterSet a = first.Or(Values(0)), b = second.Or(Values(0));
    for (int64_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(a.flat().data_ptr<double>()[i], b.flat().data_ptr<double>()[i]);
    }
    TensorMap without_tensor = state;
    without_tensor.erase("average.w");
    EXPECT_EQ(second.Import(without_tensor).code(), absl::StatusCode::kInvalidArgument);
    TensorMap without_number = state;
    without_number["average_count"] = state.at("average.w");
    EXPECT_EQ(second.Import(without_number).code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(WeightAverage(SpecOf(0.9, 0), Values(1)).Import({}).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace ham::trainer
