// The networks that autograd differentiates, narrow ones, in float64 against finite differences. That their numbers are
// PyTorch's is the matter of tests/interop and tests/golden.
#include "worker/trainer/models/networks.h"

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/item.h>
#include <ATen/ops/max.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sum.h>
#include <gtest/gtest.h>

#include "tests/support/torch_seed.h"
#include "worker/trainer/attack_loss.h"

namespace ham::trainer {
namespace {

using Make = std::function<std::unique_ptr<Model>(const ModelOptions&)>;

struct Network {
  std::string name;
  Make make;
};

const Network kNetworks[] = {
    {"preact_resnet", [](const ModelOptions& options) { return MakePreActResNet18(options, 8); }},
    {"resnet", [](const ModelOptions& options) { return MakeResNet18(options, 8); }},
    {"wide_resnet", [](const ModelOptions& options) { return MakeWideResNet(options, 10, 1, 8); }},
    {"wong_kolter", [](const ModelOptions& options) { return MakeWongKolterCnn(options, 4, 9); }},
};

constexpr int64_t kRows = 18, kClasses = 5;

class NetworkTest : public ::testing::TestWithParam<std::tuple<Network, Activation>> {
 protected:
  NetworkTest() {
    at::set_num_threads(1);
    ham::testing::SeedTorch();
  }

  // `size` pixels a side.
  void MakeFor(int64_t size, at::ScalarType type = at::kDouble, at::ScalarType compute = at::kFloat) {
    ham::testing::SeedTorch();
    const auto& [network, activation] = GetParam();
    const int64_t channels = activation == Activation::kRelu ? 3 : 1;
    ModelOptions options{
        .image = {channels, size, size}, .classes = kClasses, .activation = activation, .compute = compute};
    options.normalization = Normalization{std::vector<double>(channels, 0.4), std::vector<double>(channels, 0.3)};
    model_ = network.make(options);
    weights_.emplace(model_->parameters(), type);
    weights_->Initialize(3);
    // Statistics as after some training.
    for (size_t i = 0; i < model_->parameters().size(); ++i) {
      const std::string& name = model_->parameters()[i].name;
      if (name.ends_with(".running_mean")) at::Tensor((*weights_)[i]).uniform_(-0.1, 0.1);
      if (name.ends_with(".running_var")) at::Tensor((*weights_)[i]).uniform_(0.5, 1.5);
    }
    x_ = NewImages(kRows, options.image, type);
    x_.copy_(at::rand({kRows, channels, size, size}, type));
    labels_ = at::randint(0, kClasses, {kRows}, at::kLong);
    loss_ = [this](const at::Tensor& logits) { return AttackLossGradient(AttackLoss::kCrossEntropy, logits, labels_); };
  }

  double LossOf(const at::Tensor& logits) const {
    return at::cross_entropy_loss(logits, labels_, {}, /*reduction=sum*/ 2).item<double>();
  }

  // In training mode; the logits come to light where the loss is asked for its gradient.
  double TrainingLoss(const ParameterSet& weights, const at::Tensor& x) const {
    ParameterSet gradients(model_->parameters(), at::kDouble);
    TrainingPass pass{.rows = kRows, .statistics = &gradients};
    double loss = 0;
    const auto record = [&](const at::Tensor& logits) {
      loss = LossOf(logits);
      return loss_(logits);
    };
    model_->WeightGradients(weights, x, record, &pass, &gradients);
    return loss;
  }

  std::unique_ptr<Model> model_;
  std::optional<ParameterSet> weights_;
  at::Tensor x_, labels_;
  LogitsGradient loss_;
};

// A step that crosses a kink of a ReLU has another slope. So steps are small (rounding moves a slope by 5e-5 at most:
// bound 1e-3), and of the two sides the better one counts: one in 10,000 had a kink, of networks with ReLU.
constexpr double kStep = 1e-9, kBound = 1e-3;

void ExpectSlope(const std::function<double(double)>& along, double expected) {
  const double here = along(0);
  const double ahead = (along(kStep) - here) / kStep;
  const double behind = (here - along(-kStep)) / kStep;
  const double slope = std::abs(ahead - expected) < std::abs(behind - expected) ? ahead : behind;
  EXPECT_NEAR(slope, expected, kBound * std::max(1.0, std::abs(expected)))
      << "ahead " << ahead << ", behind " << behind;
}

TEST_P(NetworkTest, GradientsAreSlopesInBothModes) {
  MakeFor(8);
  const at::Tensor d_x = at::randn(x_.sizes(), at::kDouble);
  const at::Tensor evaluation = model_->InputGradient(*weights_, x_, loss_);
  EXPECT_EQ(evaluation.strides(), x_.strides());
  EXPECT_GT(evaluation.norm().item<double>(), 0);
  ExpectSlope([&](double t) { return LossOf(model_->Logits(*weights_, x_ + t * d_x)); },
              at::sum(evaluation * d_x).item<double>());

  ParameterSet gradients(model_->parameters(), at::kDouble);
  TrainingPass pass{.rows = kRows, .statistics = &gradients};
  const at::Tensor training = model_->InputGradient(*weights_, x_, loss_, &pass);
  ExpectSlope([&](double t) { return TrainingLoss(*weights_, x_ + t * d_x); }, at::sum(training * d_x).item<double>());

  model_->WeightGradients(*weights_, x_, loss_, &pass, &gradients);
  const int64_t trained = weights_->trained_size();
  const at::Tensor d_w = at::randn({trained}, at::kDouble);
  ExpectSlope(
      [&](double t) {
        const ParameterSet moved = weights_->Clone();
        moved.flat().narrow(0, 0, trained).add_(d_w, t);
        return TrainingLoss(moved, x_);
      },
      at::sum(gradients.flat().narrow(0, 0, trained) * d_w).item<double>());
}

TEST_P(NetworkTest, ARowsLogitsDoNotDependOnItsNeighbours) {
  MakeFor(8, at::kFloat);
  const at::Tensor all = model_->Logits(*weights_, x_);
  EXPECT_TRUE(at::equal(model_->Logits(*weights_, x_.narrow(0, 0, kMinimumRows)), all.narrow(0, 0, kMinimumRows)));
}

TEST_P(NetworkTest, FrozenItHasTheSameInputGradientAfterEachRefresh) {
  MakeFor(8);
  const auto expect_same = [&](const FrozenNetwork& frozen) {
    const at::Tensor expected = model_->InputGradient(*weights_, x_, loss_);
    const at::Tensor actual = frozen.InputGradient(x_, loss_);
    EXPECT_GT(expected.norm().item<double>(), 0);
    EXPECT_EQ(actual.strides(), x_.strides());
    EXPECT_LE((actual - expected).norm().item<double>(), 1e-12 * expected.norm().item<double>());
  };
  weights_->class_bias()[0] = 1;
  const auto frozen = model_->Freeze(*weights_);
  expect_same(*frozen);
  const at::Tensor before = frozen->InputGradient(x_, loss_);
  weights_->flat().mul_(1.25);
  EXPECT_TRUE(at::equal(frozen->InputGradient(x_, loss_), before)) << "it follows the weights unasked";
  frozen->Refresh(*weights_);
  expect_same(*frozen);
}

TEST_P(NetworkTest, FrozenARowDoesNotDependOnItsNeighboursInAnyPrecision) {
  for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
    MakeFor(8, at::kFloat, compute);
    const auto frozen = model_->Freeze(*weights_);
    const at::Tensor all = frozen->InputGradient(x_, loss_);
    labels_ = labels_.narrow(0, 0, kMinimumRows);
    EXPECT_TRUE(at::equal(frozen->InputGradient(x_.narrow(0, 0, kMinimumRows), loss_), all.narrow(0, 0, kMinimumRows)))
        << compute;
  }
}

TEST_P(NetworkTest, FrozenInBfloat16ItIsNearFloat32) {
  MakeFor(8, at::kFloat, at::kBFloat16);
  const at::Tensor unfrozen = model_->InputGradient(*weights_, x_, loss_);
  const at::Tensor actual = model_->Freeze(*weights_)->InputGradient(x_, loss_);
  MakeFor(8, at::kFloat);
  const at::Tensor expected = model_->InputGradient(*weights_, x_, loss_);
  const auto error = [&](const at::Tensor& gradient) {
    return ((gradient - expected).norm() / expected.norm()).item<double>();
  };
  EXPECT_EQ(actual.scalar_type(), at::kFloat);
  EXPECT_GT(error(actual), 1e-4) << "computed in float32";
  EXPECT_LT(error(actual), std::max(0.1, 2 * error(unfrozen)));
}

std::string NameOf(const ::testing::TestParamInfo<NetworkTest::ParamType>& parameters) {
  const auto& [network, activation] = parameters.param;
  return network.name + (activation == Activation::kRelu ? "_relu" : "_silu");
}

INSTANTIATE_TEST_SUITE_P(All, NetworkTest,
                         ::testing::Combine(::testing::ValuesIn(kNetworks),
                                            ::testing::Values(Activation::kRelu, Activation::kSilu)),
                         NameOf);

TEST(NetworksTest, TakeImagesOf160Pixels) {
  for (const Network& network : kNetworks) {
    const auto model = network.make({.image = {3, 160, 160}});
    ParameterSet weights(model->parameters());
    weights.Initialize(1);
    at::Tensor x = NewImages(kMinimumRows, model->image_shape());
    x.fill_(0.5);
    EXPECT_EQ(model->Logits(weights, x).sizes(), at::IntArrayRef({kMinimumRows, 10})) << network.name;
  }
}

TEST(WideResNetTest, TheExtraBlockIsInTheStateAndNotInTheGradients) {
  const ModelOptions plain{.image = {3, 8, 8}};
  ModelOptions with = plain;
  with.extra_block = true;
  const auto without = MakeWideResNet(plain, 10, 1, 8), model = MakeWideResNet(with, 10, 1, 8);
  ParameterSet weights(model->parameters()), gradients(model->parameters());
  weights.Initialize(1);
  gradients.Initialize(2);
  at::Tensor x = NewImages(kMinimumRows, plain.image);
  x.fill_(0.5);
  TrainingPass pass{.rows = kMinimumRows, .statistics = &gradients};
  model->WeightGradients(
      weights, x, [](const at::Tensor& logits) { return logits; }, &pass, &gradients);
  std::set<std::string> known;
  for (const ParameterSpec& spec : without->parameters()) known.insert(spec.name);
  int extra = 0;
  for (size_t i = 0; i < model->parameters().size(); ++i) {
    const ParameterSpec& spec = model->parameters()[i];
    if (known.contains(spec.name) || spec.kind == ParameterKind::kStatistic) continue;
    EXPECT_TRUE(spec.name.starts_with("sub_block1.layer.")) << spec.name;
    EXPECT_EQ(at::max(at::abs(gradients[i])).item<float>(), 0) << spec.name;
    ++extra;
  }
  EXPECT_EQ(extra, 7);  // one block: two BatchNorms, two convolutions, a shortcut
}

TEST(NetworksTest, StartAsTheirAuthorsSay) {
  const auto model = MakeWideResNet({.image = {3, 8, 8}}, 10, 1);
  ParameterSet weights(model->parameters());
  weights.Initialize(1);
  TensorMap named;
  weights.Export("", &named);
  const at::Tensor& convolution = named.at("block3.layer.0.conv2.weight");  // 64 channels of 3x3
  EXPECT_NEAR(convolution.to(at::kDouble).pow(2).mean().item<double>(), 2.0 / (9 * 64), 0.02 * 2.0 / (9 * 64));
  EXPECT_EQ(at::max(at::abs(named.at("fc.bias"))).item<float>(), 0);
}

TEST(NetworksTest, CountsAreThoseOfThePublishedModels) {
  const auto models = KnownModels();
  const auto parameters = [&](const std::string& name) -> int64_t {
    for (const ModelInfo& info : models) {
      if (info.name == name) return info.parameters;
    }
    return 0;
  };
  EXPECT_EQ(parameters("cnn-wong-kolter"), 166406);
  EXPECT_EQ(parameters("preact-resnet-18"), 11172170);
  EXPECT_EQ(parameters("resnet-18"), 11173962);
  EXPECT_EQ(parameters("wrn-28-10"), 36479194);
  EXPECT_EQ(parameters("wrn-34-10"), 46160474);
}

struct Stages {
  int64_t first;   // channels of the first convolution
  int64_t width;   // of the first stage; each next one has twice as many, and half as many rows and columns
  int64_t stages;  // of as many blocks
  int64_t blocks;
};

// Multiply-adds of a residual network for 10 classes of 32 x 32 pictures.
int64_t MultiplyAddsOf(const Stages& network) {
  int64_t sum = 9 * 3 * network.first * 1024;
  int64_t in = network.first;
  for (int64_t stage = 0; stage < network.stages; ++stage) {
    const int64_t out = network.width << stage, pixels = 1024 >> (2 * stage);
    for (int64_t block = 0; block < network.blocks; ++block, in = out) {
      sum += 9 * (in + out) * out * pixels;
      if (in != out) sum += in * out * pixels;  // the shortcut
    }
  }
  return sum + 10 * in;
}

TEST(NetworksTest, FlopsAreThoseOfTheirLayers) {
  const auto flops = [](const std::string& name, const ImageShape& image, bool extra_block = false) {
    return (*MakeModel(name, {.image = image, .extra_block = extra_block}))->flops();
  };
  const ImageShape digits{1, 28, 28}, pictures{3, 32, 32};
  for (const char* name : {"preact-resnet-18", "resnet-18"}) {
    const ModelFlops found = flops(name, pictures);
    EXPECT_EQ(found.forward, 2 * MultiplyAddsOf({64, 64, 4, 2}));
    EXPECT_NEAR(static_cast<double>(found.forward), 2 * 0.56e9, 2 * 0.005e9);  // as others count
    EXPECT_EQ(found.first_layer, 2 * 9 * 3 * 64 * 1024);
    EXPECT_EQ(found.Of(kInputGradientPass), 4 * MultiplyAddsOf({64, 64, 4, 2}));
    EXPECT_EQ(found.Of(kTrainingPass), 6 * MultiplyAddsOf({64, 64, 4, 2}) - 2 * 9 * 3 * 64 * 1024);
  }
  EXPECT_EQ(flops("wrn-28-10", pictures).forward, 2 * MultiplyAddsOf({16, 160, 3, 4}));
  EXPECT_EQ(flops("wrn-34-10", pictures).forward, 2 * MultiplyAddsOf({16, 160, 3, 5}));
  EXPECT_NEAR(static_cast<double>(flops("wrn-28-10", pictures).forward), 2 * 5.2e9, 2 * 0.05e9);
  EXPECT_NEAR(static_cast<double>(flops("wrn-34-10", pictures).forward), 2 * 6.7e9, 2 * 0.05e9);
  EXPECT_EQ(flops("wrn-34-10", pictures, true).forward, 2 * MultiplyAddsOf({16, 160, 3, 5}));
  EXPECT_EQ(flops("cnn-wong-kolter", digits).forward,
            2 * (16 * 16 * 196 + 16 * 16 * 32 * 49 + 32 * 49 * 100 + 100 * 10));
  EXPECT_EQ(flops("cnn-16-32", digits).forward, 2 * (9 * 16 * 784 + 9 * 16 * 32 * 196 + 32 * 49 * 128 + 128 * 10));
  EXPECT_EQ(flops("cnn-32-64", digits).forward, 2 * (9 * 32 * 784 + 9 * 32 * 64 * 196 + 64 * 49 * 128 + 128 * 10));
  EXPECT_EQ(flops("cnn-32-64", digits).first_layer, 2 * 9 * 32 * 784);
  for (const ModelInfo& info : KnownModels()) EXPECT_GT(flops(info.name, info.images).forward, 0) << info.name;
}

TEST(NetworksTest, OptionsThatAModelDoesNotHaveAreRefused) {
  const auto message = [](const std::string& name, const ModelOptions& options) {
    const auto made = MakeModel(name, options);
    EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument) << name;
    return std::string(made.status().message());
  };
  const ImageShape digits{1, 28, 28};
  EXPECT_NE(message("cnn-16-32", {.image = digits, .activation = Activation::kSilu}).find("train.model.activation"),
            std::string::npos);
  EXPECT_NE(message("resnet-18", {.image = {3, 32, 32}, .extra_block = true}).find("train.model.extra_block"),
            std::string::npos);
  EXPECT_NE(message("cnn-wong-kolter", {.image = {1, 30, 28}}).find("30 x 28"), std::string::npos);
}

}  // namespace
}  // namespace ham::trainer
