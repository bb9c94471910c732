// The GPU against the host: a step of each, NCCL, recorded work, and what goes wrong. Suites whose names begin with Gpu
// need one; the others hold the same comparison to the host alone.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/max.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/gpu/count_syncs.h"
#include "tests/support/host_accelerator.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/toy_images.h"
#include "tests/support/toy_spec_json.h"
#include "worker/trainer/accelerator.h"
#include "worker/trainer/cuda/nccl_calls.h"
#include "worker/trainer/device.h"
#include "worker/trainer/ham_step.h"
#include "worker/trainer/hard_examples.h"
#include "worker/trainer/job_runner.h"
#include "worker/trainer/models/channel_ops.h"
#include "worker/trainer/models/networks.h"
#include "worker/trainer/pgd_attack.h"
#include "worker/trainer/precision.h"
#include "worker/trainer/trainer.h"

namespace ham::trainer {
namespace {

using ham::testing::HostAccelerator;
using ham::testing::MemoryStore;
using ham::testing::RunGlooRanks;
using ham::testing::ToyImages;
using ham::testing::ToySpec;
using ::testing::HasSubstr;

constexpr int64_t kRows = 64;

TrainSpec StepSpec(Precision precision) {
  TrainSpec spec = ToySpec();
  spec.precision = precision;
  spec.batch_size = kRows;
  spec.method.mining_start_epoch = 1;
  spec.optimizer = {.name = OptimizerKind::kSgd, .learning_rate = 0.05, .weight_decay = 0.001};
  return spec;
}

std::unique_ptr<Model> MakeNetwork(Precision precision) {
  return MakePreActResNet18({.image = {1, 8, 8}, .classes = 4, .compute = TypesOf(precision).layers}, 8);
}

at::Tensor OnHostInFloat64(const at::Tensor& tensor) { return tensor.to(at::kCPU).to(at::kDouble); }

// The parts of a step on one device, from the same weights, images and noise.
class Engine {
 public:
  // as_device: of the host, worked on as if it were a device (device.h).
  Engine(const TrainSpec& spec, at::Device device, bool as_device = false)
      : spec_(spec),
        as_device_(as_device),
        model_(MakeNetwork(spec.precision)),
        weights_(model_->parameters(), Options(device)) {
    at::set_num_threads(1);
    ParameterSet initial(model_->parameters(), Options(at::kCPU));
    initial.Initialize(5);
    weights_.flat().copy_(initial.flat());
    const auto as_its_device = AsDevice();
    passes_.emplace(*model_, weights_);
    std::vector<uint32_t> ids(kRows);
    std::iota(ids.begin(), ids.end(), 0);
    batch_ = Converted(GatherBatch(ToyImages(kRows, 1), ids), weights_.options());
    start_ = StartPoint(spec_, 1, batch_);
  }

  at::Tensor FirstPoint() {
    const auto device = AsDevice();
    const auto x = Ascend(
        *passes_, batch_, start_,
        {AttackLoss::kCrossEntropy, {spec_.attack.norm, spec_.attack.epsilon}, spec_.attack.step_size, 1}, [] {});
    EXPECT_TRUE(x.ok()) << x.status();
    return OnHostInFloat64(*x);
  }

  AttackedBatch Attack() {
    const auto device = AsDevice();
    StepCounts counts(model_->classes(), spec_.method.mining_step, 1);
    auto attacked = AttackAndMine(Context(), &weights_, batch_, start_, &counts);
    EXPECT_TRUE(attacked.ok()) << attacked.status();
    return *std::move(attacked);
  }

  struct Gradient {
    at::Tensor flat;
    double loss = 0;
  };
  // At the rows that another engine ended with.
  Gradient GradientAt(AttackedBatch attacked) {
    const auto device = AsDevice();
    attacked.kept = Converted(std::move(attacked.kept), weights_.options());
    GradientReducer reducer(model_->parameters(), {model_->classes(), spec_.method.mining_step, 1}, weights_.options());
    StepSums local{.rows = kRows, .kept_rows = attacked.kept.rows(), .counts = reducer.NewCounts()};
    const absl::Status status = ComputeGradients(Context(), weights_, attacked, &reducer.gradients(), &local);
    EXPECT_TRUE(status.ok()) << status;
    auto global = reducer.Reduce(local, *alone_);
    EXPECT_TRUE(global.ok()) << global.status();
    return {OnHostInFloat64(reducer.gradients().flat()), global->Get().loss / global->Get().weight};
  }

 private:
  at::TensorOptions Options(at::Device device) const {
    return at::TensorOptions(TypesOf(spec_.precision).weights).device(device);
  }
  StepContext Context() {
    return {spec_, 1, *passes_, *alone_, [] {}};
  }
  std::unique_ptr<HostAsDevice> AsDevice() const { return as_device_ ? std::make_unique<HostAsDevice>() : nullptr; }

  const TrainSpec spec_;
  const bool as_device_;
  const std::unique_ptr<Model> model_;
  const std::unique_ptr<Collective> alone_ = MakeLocalCollective();
  ParameterSet weights_;
  std::optional<NetworkPasses> passes_;
  Batch batch_;
  at::Tensor start_;
};

struct Differences {
  double pixels = 0;    // share of those that one attack step puts elsewhere: signs of gradients near 0
  double rows = 0;      // share of those that are hard for one and easy for the other
  double gradient = 0;  // at the same rows: norm of the difference, relative
  double loss = 0;      // at the same rows, relative
};

Differences Compare(Engine a, Engine b) {
  Differences out;
  const at::Tensor apart = (a.FirstPoint() - b.FirstPoint()).abs() > 1e-6;
  out.pixels = apart.to(at::kDouble).mean().item<double>();
  const AttackedBatch ours = a.Attack(), theirs = b.Attack();
  for (int64_t row = 0; row < kRows; ++row) out.rows += ours.mined.is_hard[row] != theirs.mined.is_hard[row];
  out.rows /= kRows;
  const Engine::Gradient expected = a.GradientAt(ours), found = b.GradientAt(ours);
  out.gradient = ((expected.flat - found.flat).norm() / expected.flat.norm()).item<double>();
  out.loss = std::abs(found.loss / expected.loss - 1);
  return out;
}

struct Bounds {
  const char* name;
  Precision precision;
  Differences most;
};

// What rounding may do. In float64 the two differ in the order of sums alone; the others have 24, 11 and 8 bits.
const Bounds kBounds[] = {{"Fp64", Precision::kFp64, {1e-4, 0, 1e-9, 1e-9}},
                          {"Fp32", Precision::kFp32, {0.01, 0.02, 1e-4, 1e-5}},
                          {"Tf32", Precision::kTf32, {0.05, 0.05, 0.02, 0.01}},
                          {"Bf16", Precision::kBf16, {0.15, 0.1, 0.25, 0.01}}};

void ExpectWithin(const Differences& most, const Differences& found) {
  EXPECT_LE(found.pixels, most.pixels);
  EXPECT_LE(found.rows, most.rows);
  EXPECT_LE(found.gradient, most.gradient);
  EXPECT_LE(found.loss, most.loss);
  ::testing::Test::RecordProperty("pixels", std::to_string(found.pixels));
  ::testing::Test::RecordProperty("rows", std::to_string(found.rows));
  ::testing::Test::RecordProperty("gradient", std::to_string(found.gradient));
  ::testing::Test::RecordProperty("loss", std::to_string(found.loss));
}

std::string NameOf(const ::testing::TestParamInfo<Bounds>& info) { return info.param.name; }

class HostStepTest : public ::testing::TestWithParam<Bounds> {};
INSTANTIATE_TEST_SUITE_P(Precisions, HostStepTest, ::testing::Values(kBounds[0], kBounds[1], kBounds[3]), NameOf);

TEST_P(HostStepTest, LoopsAndOperationsAgree) {
  const TrainSpec spec = StepSpec(GetParam().precision);
  ExpectWithin(GetParam().most, Compare(Engine(spec, at::kCPU), Engine(spec, at::kCPU, /*as_device=*/true)));
}

TEST_P(HostStepTest, AnotherStepIsSeen) {
  const TrainSpec spec = StepSpec(GetParam().precision);
  TrainSpec other = spec;
  other.attack.step_size *= 1.01;
  other.label_smoothing = 0.9;
  const Differences found = Compare(Engine(spec, at::kCPU), Engine(other, at::kCPU));
  EXPECT_GT(found.pixels, GetParam().most.pixels);
  EXPECT_GT(found.gradient, GetParam().most.gradient);
  EXPECT_GT(found.loss, GetParam().most.loss);
}

// Needs a GPU; the same one for all tests.
class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto found = MakeAccelerator();
    if (!found.ok()) GTEST_SKIP() << found.status().message();
    gpu_ = *std::move(found);
  }

  // Weights after three steps in float64, and the kept rows of each. `ranks`: of one attempt.
  struct Outcome {
    at::Tensor weights;
    std::vector<std::vector<uint32_t>> kept;
    int64_t waits = 0, syncs = 0;  // in these steps: counted by ToHost(), and by LibTorch
  };
  Outcome Train(Collective& ranks, Accelerator* accelerator, Method method = Method::kHam) {
    return Train(ranks, accelerator, *MakeNetwork(Precision::kFp64), method);
  }
  Outcome Train(Collective& ranks, Accelerator* accelerator, const Model& model, Method method = Method::kHam) {
    at::set_num_threads(1);
    TrainSpec spec = StepSpec(Precision::kFp64);
    spec.method.name = method;
    const ImageSet train = ToyImages(200, 1), test = ToyImages(16, 2);
    const RunData data = *ChooseRows(spec.data, train, test);
    Trainer trainer(spec, model, data, ranks, observer_, accelerator);
    Outcome out;
    const int64_t waits = HostWaits();
    const ham::testing::CountSyncs syncs;
    for (int step = 0; step < 3; ++step) {
      const auto report = trainer.Step(1, trainer.OrderOf(1), step * kRows);
      EXPECT_TRUE(report.ok()) << report.status();
      if (!report.ok()) break;
      out.kept.push_back(report->kept);
    }
    out.waits = HostWaits() - waits;
    out.syncs = syncs.count();
    out.weights = OnHostInFloat64(trainer.weights().flat());
    return out;
  }

  SilentObserver observer_;
  std::unique_ptr<Accelerator> gpu_;
};

class GpuStepTest : public GpuTest, public ::testing::WithParamInterface<Bounds> {};
INSTANTIATE_TEST_SUITE_P(Precisions, GpuStepTest, ::testing::ValuesIn(kBounds), NameOf);

TEST_P(GpuStepTest, HostAndGpuAgree) {
  AllowTf32(TypesOf(GetParam().precision).tf32);
  const TrainSpec spec = StepSpec(GetParam().precision);
  ExpectWithin(GetParam().most, Compare(Engine(spec, at::kCPU), Engine(spec, gpu_->device())));
}

using GpuTrainerTest = GpuTest;

TEST_F(GpuTrainerTest, StepsAsOnTheHost) {
  const auto alone = MakeLocalCollective();
  for (const Method method : {Method::kHam, Method::kPgdAt}) {  // of PGD-AT the training passes are recorded, too
    const Outcome expected = Train(*alone, nullptr, method), found = Train(*alone, gpu_.get(), method);
    EXPECT_EQ(found.kept, expected.kept);
    EXPECT_TRUE(at::allclose(found.weights, expected.weights, 1e-7, 1e-9));
  }
}

TEST_F(GpuTrainerTest, InputsArePinnedAhead) {
  const ImageSet images = ToyImages(40, 1);
  const std::vector<uint32_t> ids = {3, 1};
  const auto noise = [](int, const std::vector<uint32_t>& of) { return NewImages(std::ssize(of), {1, 8, 8}).zero_(); };
  InputPipeline pipeline(images, ids, {}, 1, {.noise = noise, .pinned = true});
  pipeline.Prepare(1, ids);
  const InputPipeline::Inputs inputs = pipeline.Take(1, ids);
  EXPECT_TRUE(inputs.batch.x.is_pinned());
  EXPECT_TRUE(inputs.noise.is_pinned());
  EXPECT_TRUE(at::equal(inputs.batch.x, GatherBatch(images, ids).x));
}

TEST_F(GpuTrainerTest, TwoGlooRanksShareTheGpu) {
  // Ranks are threads here, but backward passes on one GPU share one: a network without sums in them.
  const std::unique_ptr<Model> model = MakeWongKolterCnn({.image = {1, 8, 8}, .classes = 4}, 8);
  const auto alone = MakeLocalCollective();
  const Outcome expected = Train(*alone, gpu_.get(), *model);
  RunGlooRanks(2, [&](Collective& ranks) {
    HostAccelerator no_graphs(gpu_->device());  // which two threads of a process would record into each other
    const Outcome found = Train(ranks, &no_graphs, *model);
    EXPECT_TRUE(at::allclose(found.weights, expected.weights, 1e-7, 1e-9)) << "rank " << ranks.rank();
  });
}

TEST_F(GpuTrainerTest, AStepWaitsNoMoreThanItSays) {
  const auto alone = MakeLocalCollective();
  Train(*alone, gpu_.get());  // loads kernels
  const Outcome found = Train(*alone, gpu_.get());
  EXPECT_EQ(found.waits, 3);  // one a step
  EXPECT_EQ(found.syncs, 0);  // beside those, of which LibTorch does not know
  RecordProperty("waits_of_three_steps", std::to_string(found.waits + found.syncs));
}

using GpuNcclTest = GpuTest;

TEST_F(GpuNcclTest, OneRankSumsAndGathers) {
  MemoryStore store;
  auto ranks = gpu_->Connect({.timeout = absl::Seconds(30), .patience = absl::Seconds(30)}, store);
  ASSERT_TRUE(ranks.ok()) << ranks.status();
  at::Tensor flat = at::rand({1000}, at::TensorOptions(at::kFloat).device(gpu_->device()));
  const at::Tensor before = flat.clone();
  ASSERT_TRUE((*ranks)->AllReduceSum(flat).ok());
  EXPECT_TRUE(at::equal(flat, before));
  double number = 3;
  ASSERT_TRUE((*ranks)->AllReduceSum(&number, 1).ok());
  EXPECT_EQ(number, 3);
  const char in[] = "seven";
  char out[sizeof(in)] = {};
  ASSERT_TRUE((*ranks)->AllGather(in, sizeof(in), out).ok());
  EXPECT_STREQ(out, in);
  EXPECT_TRUE((*ranks)->Barrier().ok());
}

TEST_F(GpuNcclTest, EndsInTimeWhenThePeerNeverComes) {
  MemoryStore store;
  // What the ranks tell each other is all there: it is NCCL that waits.
  const std::string version = MakeNcclCalls(gpu_->device())->Version();
  ASSERT_TRUE(store.Set("nccl-rank-1", version + " GPU-of-the-peer").ok());
  const absl::Time begin = absl::Now();
  const auto ranks = gpu_->Connect({.world_size = 2, .timeout = absl::Seconds(2), .patience = absl::Seconds(2)}, store);
  EXPECT_EQ(ranks.status().code(), absl::StatusCode::kDeadlineExceeded) << ranks.status();
  EXPECT_THAT(ranks.status().message(), HasSubstr("connect over 2 ranks by NCCL"));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(20));
}

using GpuRecordTest = GpuTest;

TEST_F(GpuRecordTest, AReplayIsTheWorkItself) {
  const std::unique_ptr<Model> model = MakeNetwork(Precision::kFp32);
  ParameterSet weights(model->parameters(), at::TensorOptions(at::kFloat).device(gpu_->device()));
  ParameterSet initial(model->parameters());
  initial.Initialize(5);
  weights.flat().copy_(initial.flat());
  at::Tensor x = NewImages(kRows, model->image_shape(), weights.options());
  x.uniform_();
  at::Tensor logits = at::empty({kRows, model->classes()}, weights.options());
  const auto work = [&] { logits.copy_(model->Logits(weights, x)); };
  const std::unique_ptr<RecordedWork> recorded = gpu_->Record(work);
  for (int round = 0; round < 3; ++round) {  // other images and weights in the same memory
    x.uniform_();
    weights.flat().mul_(1.01);
    work();
    const at::Tensor expected = logits.clone();
    logits.zero_();
    recorded->Replay();
    EXPECT_TRUE(at::equal(logits, expected)) << "round " << round;
  }
}

using GpuPassesTest = GpuTest;

// Recorded passes beside the same ones that just run: other images, labels and weights each time, more rows and fewer.
TEST_F(GpuPassesTest, ReplaysAreThePassesThemselves) {
  const std::unique_ptr<Model> model = MakeNetwork(Precision::kFp64);
  const at::TensorOptions options = at::TensorOptions(at::kDouble).device(gpu_->device());
  ParameterSet weights(model->parameters(), options);
  weights.Initialize(5);
  const auto expect_close = [](const at::Tensor& found, const at::Tensor& expected, const char* what, int64_t rows) {
    EXPECT_TRUE(at::allclose(found, expected, 1e-9, 1e-12)) << what << " of " << rows << " rows";
  };
  for (int run = 0; run < 2; ++run) {  // the second one records after all recordings of the first are gone
    NetworkPasses recorded(*model, weights, gpu_.get()), plain(*model, weights);
    ParameterSet found(model->parameters(), options), expected(model->parameters(), options);
    for (const int64_t rows : {64, 10, 64, 10, 64, 10, 64, 10, 64, 10, 64, 10, 300, 64, 64, 300, 300}) {
      weights.flat().mul_(1.01);
      std::vector<uint32_t> ids(rows);
      std::iota(ids.begin(), ids.end(), 0);
      Batch batch = PadRows(Converted(GatherBatch(ToyImages(rows, run + 1), ids), options));
      batch.x.uniform_();
      for (NetworkPasses* passes : {&recorded, &plain}) {
        passes->Freeze(weights);
        passes->Aim(AttackLoss::kCrossEntropy, batch);
      }
      const NetworkPasses::Point point = recorded.AttackPoint(batch.x), same = plain.AttackPoint(batch.x);
      expect_close(point.gradient, same.gradient, "input gradient", rows);
      expect_close(point.logits, same.logits, "attack logits", rows);
      expect_close(recorded.Logits(batch.x), plain.Logits(batch.x), "logits", rows);
      const std::vector<double> row_weights(rows, 0.5 + run);
      TrainingPass one{.rows = rows, .statistics = &found}, other{.rows = rows, .statistics = &expected};
      const at::Tensor sums = recorded.TrainOnDevice({batch, rows, row_weights, 0.1}, weights, &one, &found),
                       same_sums = plain.TrainOnDevice({batch, rows, row_weights, 0.1}, weights, &other, &expected);
      expect_close(sums, same_sums, "loss and counts", rows);
      expect_close(found.flat(), expected.flat(), "gradient", rows);
    }
  }
}

// A kernel for each pass over images beside LibTorch's operations.
struct ImageCase {
  const char* name;
  at::ScalarType type;
  double bound;  // of the relative difference: roundings of the type, or of sums in another order
};

class GpuChannelOpsTest : public GpuTest, public ::testing::WithParamInterface<ImageCase> {
 protected:
  // Some of `rows` count. x and added have other means and spreads in each channel.
  struct Images {
    at::Tensor x, added, d_y, d_sum, scale, shift;
    TrueRows rows;
  };
  Images Make(int64_t rows, int64_t channels, int64_t side, bool count_on_device) {
    const at::TensorOptions options = at::TensorOptions(GetParam().type).device(gpu_->device());
    const at::TensorOptions numbers = options.dtype(GetParam().type == at::kDouble ? at::kDouble : at::kFloat);
    const auto images = [&] {
      return at::randn({rows, channels, side, side}, options).contiguous(at::MemoryFormat::ChannelsLast);
    };
    Images out{images(),
               images(),
               images(),
               images(),
               at::rand({channels}, numbers) - 0.3,
               at::randn({channels}, numbers),
               {rows - rows / 3}};
    out.x.mul_(at::rand({1, channels, 1, 1}, options) + 0.5).add_(3 * at::randn({1, channels, 1, 1}, options));
    if (count_on_device) out.rows = {rows, at::full({1}, rows - rows / 3, options.dtype(at::kLong))};
    return out;
  }

  static void ExpectClose(const at::Tensor& found, const at::Tensor& expected, double bound, const std::string& what) {
    ASSERT_EQ(found.sizes(), expected.sizes()) << what;
    ASSERT_EQ(found.scalar_type(), expected.scalar_type()) << what;
    const at::Tensor a = found.to(at::kDouble), b = expected.to(at::kDouble);
    const double distance = ((a - b).norm() / b.norm()).item<double>();
    EXPECT_LE(distance, bound) << what;  // no number is not below
    EXPECT_EQ(found.strides(), expected.strides()) << what;
  }
};
INSTANTIATE_TEST_SUITE_P(Types, GpuChannelOpsTest,
                         ::testing::Values(ImageCase{"Fp64", at::kDouble, 1e-11}, ImageCase{"Fp32", at::kFloat, 2e-5},
                                           ImageCase{"Bf16", at::kBFloat16, 2e-3}),
                         [](const auto& info) { return info.param.name; });

TEST_P(GpuChannelOpsTest, KernelsAreTheOperations) {
  ASSERT_NE(CudaChannelOps(), nullptr);
  const ChannelOps &kernels = *CudaChannelOps(), &operations = ComposedChannelOps();
  // Channels that are read one by one, in packs, and by several blocks; few pixels and more than all blocks take at
  // once.
  const struct {
    int64_t rows, channels, side;
  } sizes[] = {{16, 6, 5}, {40, 64, 16}, {16, 160, 3}, {24, 512, 4}, {16, 640, 8}, {300, 64, 32}};
  for (const auto& size : sizes) {
    for (const int option : {0, 1, 2, 3}) {
      const bool adds = option & 1, relu = option & 2, count_on_device = adds != relu;
      const std::string what =
          absl::StrCat(size.rows, " x ", size.channels, " x ", size.side, ", option ", option, ": ");
      const Images in = Make(size.rows, size.channels, size.side, count_on_device);
      const at::Tensor added = adds ? in.added : at::Tensor(), d_sum = adds ? in.d_sum : at::Tensor();
      const auto close = [&](const at::Tensor& found, const at::Tensor& expected, const char* name) {
        ExpectClose(found, expected, GetParam().bound, what + name);
      };
      const auto frozen = kernels.ScaleAndShift(in.x, added, in.scale, in.shift, relu),
                 same_frozen = operations.ScaleAndShift(in.x, added, in.scale, in.shift, relu);
      close(frozen.y, same_frozen.y, "y");
      close(frozen.sum, same_frozen.sum, "sum");
      const at::Tensor y = relu ? same_frozen.y : at::Tensor();
      close(kernels.ScaleAndShiftBackward(in.d_y, y, in.scale, d_sum),
            operations.ScaleAndShiftBackward(in.d_y, y, in.scale, d_sum), "d_x");

      for (const bool ranks : {false, true}) {  // another rank that has the same rows
        const ChannelOps::OverRanks twice = [](at::Tensor& sums) { sums.mul_(2); };
        const ChannelOps::OverRanks over_ranks = ranks ? twice : ChannelOps::OverRanks();
        at::Tensor mean = at::zeros_like(in.scale), variance = at::zeros_like(in.scale);
        at::Tensor same_mean = at::zeros_like(in.scale), same_variance = at::zeros_like(in.scale);
        const auto batch = kernels.Measure(in.x, added, in.rows, in.scale, in.shift, over_ranks, mean, variance);
        const auto same =
            operations.Measure(in.x, added, in.rows, in.scale, in.shift, over_ranks, same_mean, same_variance);
        close(batch.sum, same.sum, "sum of a batch");
        close(batch.sums, same.sums, "sums");
        close(batch.by, same.by, "numbers of a batch");
        close(mean, same_mean, "mean");
        close(variance, same_variance, "variance");
        close(kernels.Normalize(same.sum, same.by, relu), operations.Normalize(same.sum, same.by, relu), "normalised");
        const auto gradients = kernels.MeasureGradients(in.d_y, same.sum, same, relu, in.rows, in.scale, over_ranks),
                   same_gradients =
                       operations.MeasureGradients(in.d_y, same.sum, same, relu, in.rows, in.scale, over_ranks);
        // Sums of numbers of both signs: what is left of them is small beside their roundings.
        const double slack = 20 * GetParam().bound;
        ExpectClose(gradients.d_scale, same_gradients.d_scale, slack, what + "d_scale");
        ExpectClose(gradients.d_shift, same_gradients.d_shift, slack, what + "d_shift");
        ExpectClose(gradients.by, same_gradients.by, slack, what + "numbers of gradients");
        close(kernels.NormalizeBackward(in.d_y, same.sum, same, relu, in.rows, same_gradients, d_sum),
              operations.NormalizeBackward(in.d_y, same.sum, same, relu, in.rows, same_gradients, d_sum),
              "d_x of a batch");
      }
    }
  }
}

TEST_P(GpuChannelOpsTest, MemoryNeedNotBeAligned) {
  const Images in = Make(16, 64, 4, false);
  const int64_t count = in.x.numel();
  const at::Tensor shifted =
      at::empty({count + 1}, in.x.options()).narrow(0, 1, count).as_strided(in.x.sizes(), in.x.strides(), 1);
  at::Tensor x = shifted;
  x.copy_(in.x);
  ExpectClose(CudaChannelOps()->ScaleAndShift(x, in.added, in.scale, in.shift, true).y,
              CudaChannelOps()->ScaleAndShift(in.x, in.added, in.scale, in.shift, true).y, 0, "y");
}

using GpuMiningTest = GpuTest;

// The rows that a bf16 pass decides on are hard where they are by float32.
TEST_F(GpuMiningTest, DecidesAsFloat32) {
  const std::unique_ptr<Model> model = MakeNetwork(Precision::kBf16);
  const at::TensorOptions options = at::TensorOptions(at::kFloat).device(gpu_->device());
  ParameterSet weights(model->parameters(), options), initial(model->parameters());
  initial.Initialize(5);
  weights.flat().copy_(initial.flat());
  NetworkPasses passes(*model, weights, gpu_.get());
  passes.Freeze(weights);
  for (const int64_t rows : {256, 250, 256, 40}) {
    at::Tensor x = NewImages(rows, model->image_shape(), options);
    x.uniform_();
    const std::vector<int64_t> expected = Predictions(ToHost(passes.Logits(x)));
    const at::Tensor labels = at::tensor(expected, at::kLong);
    const NetworkPasses::Decision decision = passes.Decide(x, labels);
    const double distance = ToHost(decision.distance).item<double>();
    const std::vector<int64_t> found = Predictions(ToHost(decision.logits));
    int64_t others = 0;
    for (int64_t row = 0; row < rows; ++row) others += found[row] != expected[row];
    RecordProperty(absl::StrCat("distance_", rows), std::to_string(distance));
    if (distance >= NetworkPasses::kTie) {
      EXPECT_EQ(others, 0) << rows << " rows";
    }
  }
}

using GpuClockTest = GpuTest;

TEST_F(GpuClockTest, MarksAreOfTheWorkAndNotOfItsLaunch) {
  const std::unique_ptr<PhaseClock> clock = gpu_->NewClock();
  const at::Tensor matrix = at::rand({8192, 8192}, at::TensorOptions(at::kFloat).device(gpu_->device()));
  const absl::Time begin = absl::Now();
  clock->Mark();
  at::Tensor product = at::mm(matrix, matrix);
  clock->Mark();
  clock->Mark();
  for (int i = 0; i < 9; ++i) product = at::mm(matrix, product);
  clock->Mark();
  std::vector<double> times = clock->Take(3);
  const double one = times[1] - times[0];
  EXPECT_GT(one, 1e-3);  // a tera-operation
  EXPECT_LT(times[2] - times[1], one / 10);
  times.push_back(clock->Take(1).at(0));
  EXPECT_GT(times[3] - times[2], one);
  EXPECT_LE(times[3] - times[0], absl::ToDoubleSeconds(absl::Now() - begin));
}

using GpuMemoryTest = GpuTest;

// Images of noise in the files of CIFAR-10.
void WriteCifar(const std::filesystem::path& folder, int64_t rows) {
  std::filesystem::create_directories(folder);
  std::minstd_rand random(1);
  for (const char* name :
       {"data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"}) {
    std::ofstream file(folder / (std::string(name) + ".bin"), std::ios::binary);
    for (int64_t i = 0; i < rows * 3073; ++i)
      file.put(static_cast<char>(i % 3073 == 0 ? i / 3073 % 10 : random() % 256));
  }
}

TEST_F(GpuMemoryTest, TooLittleIsTheUsersAffair) {
  const ham::testing::TemporaryDirectory directory;
  WriteCifar(directory / "data/cifar-10", 100);
  std::filesystem::create_directories(directory / "work");
  RankJob job;
  job.spec = ham::testing::ToySpecJson();
  nlohmann::json& train = job.spec["train"];
  train["data"]["name"] = "cifar-10";
  train["model"]["name"] = "preact-resnet-18";
  train["resources"]["device"] = "cuda";
  train["batch_size"] = 256;
  train["data"]["train_rows"] = 0;
  job.data_root = directory / "data";
  job.work_dir = directory / "work";
  c10::cuda::CUDACachingAllocator::emptyCache();
  // For the weights, their gradients and averages, but no step.
  size_t free = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  c10::cuda::CUDACachingAllocator::setMemoryFraction(1.2e9 / static_cast<double>(total), 0);
  const absl::Status status = RunAlone(job, "", /*json=*/true);
  c10::cuda::CUDACachingAllocator::setMemoryFraction(1, 0);
  EXPECT_STREQ(FailureClassOf(status), "USER") << status;
  EXPECT_THAT(status.message(), HasSubstr("memory"));
  EXPECT_THAT(status.message(), HasSubstr("train.batch_size"));
  EXPECT_THAT(status.message(), HasSubstr("fit"));
}

}  // namespace
}  // namespace ham::trainer
