// A training step by LibTorch's operations, as on a GPU, is the step of the host's loops.
#include <array>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/max.h>
#include <gtest/gtest.h>
#include <torch/library.h>

#include "absl/synchronization/mutex.h"
#include "tests/support/host_accelerator.h"
#include "tests/support/run_ranks.h"
#include "tests/support/toy_images.h"
#include "worker/trainer/device.h"
#include "worker/trainer/models/networks.h"
#include "worker/trainer/trainer.h"

namespace ham::trainer {
namespace {

using ham::testing::HostAccelerator;
using ham::testing::ToyImages;
using ham::testing::ToySpec;

// What LibTorch has not for the device "meta"; these give shapes, as all else does there.
at::Tensor MetaConvolution(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>&,
                           at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef, bool, at::IntArrayRef,
                           int64_t) {
  const auto size = [&](int64_t d) { return (x.size(2 + d) + 2 * padding[d] - weight.size(2 + d)) / stride[d] + 1; };
  return at::empty({x.size(0), weight.size(0), size(0), size(1)}, x.options(), at::MemoryFormat::ChannelsLast);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> MetaConvolutionBackward(const at::Tensor& gradient, const at::Tensor& x,
                                                                       const at::Tensor& weight, at::IntArrayRef,
                                                                       at::IntArrayRef, at::IntArrayRef, bool,
                                                                       at::IntArrayRef, int64_t, std::array<bool, 3>) {
  return {at::empty_like(x), at::empty_like(weight), at::empty({gradient.size(1)}, x.options())};
}

using MaybeTensor = std::optional<at::Tensor>;

std::tuple<at::Tensor, at::Tensor, at::Tensor> MetaBatchNorm(const at::Tensor& x, const MaybeTensor& scale,
                                                             const MaybeTensor&, const MaybeTensor&, const MaybeTensor&,
                                                             bool, double, double) {
  return {at::empty_like(x), at::empty_like(*scale), at::empty_like(*scale)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> MetaBatchNormBackward(const at::Tensor&, const at::Tensor& x,
                                                                     const MaybeTensor& scale, const MaybeTensor&,
                                                                     const MaybeTensor&, const MaybeTensor&,
                                                                     const MaybeTensor&, bool, double,
                                                                     std::array<bool, 3>) {
  return {at::empty_like(x), at::empty_like(*scale), at::empty_like(*scale)};
}

at::Tensor& MetaIndexSelect(const at::Tensor& from, int64_t, const at::Tensor& index, at::Tensor& out) {
  TORCH_CHECK(from.is_meta() && index.is_meta() && out.is_meta());
  return out;
}

at::Tensor MetaWhere(const at::Tensor& condition, const at::Tensor& a, const at::Tensor& b) {
  return condition.to(a.scalar_type()) * a + b;
}

TORCH_LIBRARY_IMPL(aten, Meta, library) {
  library.impl("where.self", MetaWhere);
  library.impl("index_select.out", MetaIndexSelect);
  library.impl("native_batch_norm", MetaBatchNorm);
  library.impl("native_batch_norm_backward", MetaBatchNormBackward);
  library.impl("convolution_overrideable", MetaConvolution);
  library.impl("convolution_backward_overrideable", MetaConvolutionBackward);
}

// Without those amid an epoch, which come as time passes.
class PointsObserver : public SilentObserver {
 public:
  absl::Status OnMetric(const nlohmann::json& point) override {
    if (!point.contains("train") || point["train"]["end_of_epoch"]) points.push_back(point);
    return absl::OkStatus();
  }
  std::vector<nlohmann::json> points;
};

struct Case {
  const char* name;
  std::function<void(TrainSpec*)> change;
};

const Case kCases[] = {
    {"Ham", [](TrainSpec*) {}},
    {"PgdAt", [](TrainSpec* spec) { spec->method.name = Method::kPgdAt; }},
    {"Sgd",
     [](TrainSpec* spec) {
       spec->optimizer = {.name = OptimizerKind::kSgd, .learning_rate = 0.05, .weight_decay = 0.01, .nesterov = true};
       spec->optimizer.decay_norm_and_bias = false;
       spec->optimizer.gradient_clip_norm = 0.5;
     }},
    {"AdamW",
     [](TrainSpec* spec) {
       spec->optimizer = {.name = OptimizerKind::kAdamW, .learning_rate = 0.01, .weight_decay = 0.1};
     }},
    {"L2Margin",
     [](TrainSpec* spec) {
       spec->attack.norm = Norm::kL2;
       spec->attack.epsilon = 0.5;
       spec->attack.step_size = 0.15;
       spec->attack.loss = AttackLoss::kMargin;
     }},
    {"Dlr", [](TrainSpec* spec) { spec->attack.loss = AttackLoss::kDlr; }},
    {"Weighted",
     [](TrainSpec* spec) {
       spec->method.weight_mode = WeightMode::kFirstCross;
       spec->method.drop_share = 0.2;
       spec->method.retained_easy = RetainedEasy::kHighConfidence;
       spec->method.retained_easy_share = 0.5;
       spec->method.balance_ranks = true;
       spec->class_bias.running_rate = 0.05;
       spec->label_smoothing = 0.1;
     }},
    {"MixedInParts",
     [](TrainSpec* spec) {
       spec->data.augmentation.cutmix = 0.5;
       spec->accumulation_steps = 2;
       spec->ema_decay = 0;
       spec->swa_start_epoch = 1;
     }},
    {"Skips",
     [](TrainSpec* spec) {
       spec->method.minimum_hard = 12;
       spec->optimizer = {.name = OptimizerKind::kAdamW, .learning_rate = 0.01, .weight_decay = 0.1};
     }},
    {"SkipsInTrainingMode",
     [](TrainSpec* spec) {
       spec->method.minimum_hard = 12;
       spec->attack.batch_norm = AttackBatchNorm::kTraining;
     }},
    {"TrainingModeAttack",
     [](TrainSpec* spec) {
       spec->attack.batch_norm = AttackBatchNorm::kTraining;
       spec->evaluation.reestimate_batch_norm = true;
     }},
};

class DeviceStepTest : public ::testing::TestWithParam<std::tuple<Case, int>> {
 protected:
  DeviceStepTest() {
    spec_.precision = Precision::kFp64;
    spec_.data.train_rows = 33;  // two batches of 16 and one row
    spec_.batch_size = 16;
    spec_.method.mining_start_epoch = 1;
    spec_.epochs = 2;
    std::get<0>(GetParam()).change(&spec_);
  }

  // The weights after a run, and what rank 0 measured. `records`: work is recorded and replayed.
  at::Tensor Run(std::vector<nlohmann::json>* points, bool records = false) {
    at::Tensor weights;
    ham::testing::RunRanks(std::get<1>(GetParam()), [&](Collective& ranks) {
      at::set_num_threads(1);
      PointsObserver observer;
      const RunData data = *ChooseRows(spec_.data, train_, test_);
      HostAccelerator accelerator;
      Trainer trainer(spec_, *model_, data, ranks, observer, records ? &accelerator : nullptr);
      const absl::Status status = trainer.Run();
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_EQ(accelerator.replayed() > 0, records);
      if (ranks.rank() > 0) return;
      weights = trainer.weights().flat().clone();
      *points = std::move(observer.points);
    });
    return weights;
  }

  TrainSpec spec_ = ToySpec();
  const ImageSet train_ = ToyImages(40, 1), test_ = ToyImages(20, 2);
  const std::unique_ptr<Model> model_ = MakePreActResNet18({.image = {1, 8, 8}, .classes = 4}, 8);
};

TEST_P(DeviceStepTest, IsThatOfTheHost) {
  std::vector<nlohmann::json> expected, found, recorded;
  const at::Tensor weights = Run(&expected);
  const HostAsDevice as_device;
  const at::Tensor same = Run(&found);
  if (std::get<1>(GetParam()) == 1) {  // bit by bit: on a host a row's numbers do not depend on how many are beside it
    EXPECT_TRUE(at::equal(Run(&recorded, /*records=*/true), same));
  }
  EXPECT_TRUE(at::allclose(same, weights, 1e-8, 1e-9)) << (same - weights).abs().max().item<double>();
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    if (!found[i].contains("train")) continue;
    for (const char* name :
         {"kept_share", "skipped_iterations", "hard_share", "confidence_histogram", "steps_to_boundary"}) {
      EXPECT_EQ(found[i]["train"].value(name, nlohmann::json()), expected[i]["train"].value(name, nlohmann::json()))
          << name;
    }
    EXPECT_NEAR(found[i]["train"]["loss"].get<double>(), expected[i]["train"]["loss"].get<double>(), 1e-9);
    EXPECT_NEAR(found[i]["train"]["gradient_norm"].get<double>(), expected[i]["train"]["gradient_norm"].get<double>(),
                1e-9);
  }
}

INSTANTIATE_TEST_SUITE_P(All, DeviceStepTest, ::testing::Combine(::testing::ValuesIn(kCases), ::testing::Values(1, 3)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param).name) + std::to_string(std::get<1>(test.param));
                         });

TEST(StartPointTest, IsTheSameByNoiseMadeAhead) {
  TrainSpec spec = ToySpec();
  spec.attack.stages = {{2, 0.05, 0.02, 3}};
  const Batch batch = GatherBatch(ToyImages(20, 1), {7, 3, 11});
  const HostAsDevice as_device;
  at::Tensor last;
  for (const int epoch : {1, 2}) {
    const at::Tensor noise = NoiseAtStart(spec, epoch, batch.ids, {1, 8, 8});
    last = StartPoint(spec, epoch, batch, noise);
    EXPECT_TRUE(at::equal(last, StartPoint(spec, epoch, batch)));
  }
  EXPECT_FALSE(at::equal(last, StartPoint(spec, 1, batch)));
  spec.attack.random_start = false;
  EXPECT_FALSE(NoiseAtStart(spec, 1, batch.ids, {1, 8, 8}).defined());
  EXPECT_TRUE(at::equal(StartPoint(spec, 1, batch), batch.x));
}

class DeviceTest : public ::testing::Test {
 protected:
  DeviceTest() { at::set_num_threads(1); }

  // Of the same batch, so that training passes are recorded, too.
  void ExpectSteps(int count, Accelerator* accelerator, const char* name) {
    const auto alone = MakeLocalCollective();
    const RunData data = *ChooseRows(spec_.data, train_, test_);
    Trainer trainer(spec_, *model_, data, *alone, observer_, accelerator);
    for (int step = 0; step < count; ++step) {
      const auto report = trainer.Step(1, trainer.OrderOf(1), 0);
      ASSERT_TRUE(report.ok()) << name << ": " << report.status();
      report->sums();
    }
  }

  TrainSpec spec_ = ToySpec();
  const ImageSet train_ = ToyImages(60, 1), test_ = ToyImages(30, 2);
  std::unique_ptr<Model> model_ = MakePreActResNet18({.image = {1, 8, 8}, .classes = 4}, 8);
  SilentObserver observer_;
};

// On the device "meta" tensors have no numbers, and an operation on tensors of two devices is an error: nothing in a
// step may mix them, or look at a number by a way of its own.
TEST_F(DeviceTest, AStepKeepsToItsDevice) {
  model_ = MakePreActResNet18({.image = {1, 8, 8}, .classes = 4, .activation = Activation::kSilu}, 8);
  for (const Case& one : kCases) {
    spec_ = ToySpec();
    spec_.method.mining_start_epoch = 1;
    one.change(&spec_);
    HostAccelerator nowhere(at::kMeta);
    ExpectSteps(6, &nowhere, one.name);
    EXPECT_GT(nowhere.replayed(), 0) << one.name;
  }
}

TEST_F(DeviceTest, AStepWaitsOnceForTheDevice) {
  spec_.method.mining_start_epoch = 1;
  spec_.batch_size = 16;
  const HostAsDevice as_device;
  for (const Method method : {Method::kHam, Method::kPgdAt}) {  // for x_M; for what became of the step before
    spec_.method.name = method;
    const auto alone = MakeLocalCollective();
    const RunData data = *ChooseRows(spec_.data, train_, test_);
    Trainer trainer(spec_, *model_, data, *alone, observer_);
    std::vector<StepReport> reports;
    const int64_t before = HostWaits();
    for (int step = 0; step < 3; ++step) reports.push_back(*trainer.Step(1, trainer.OrderOf(1), 16 * step));
    EXPECT_EQ(HostWaits() - before, method == Method::kHam ? 3 : 2);
    EXPECT_EQ(reports[1].sums().rows, 16);
    EXPECT_EQ(HostWaits() - before, method == Method::kHam ? 3 : 2);
    EXPECT_EQ(reports[2].sums().rows, 16);
    EXPECT_EQ(HostWaits() - before, method == Method::kHam ? 4 : 3);
  }
}

}  // namespace
}  // namespace ham::trainer
