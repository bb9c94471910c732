#include "worker/trainer/models/small_cnn.h"

#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/item.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/relu.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "tests/support/torch_seed.h"
#include "worker/trainer/models/relu_pool.h"
#include "worker/trainer/attack_loss.h"

namespace ham::trainer {
namespace {

// The same network as PyTorch users write it.
at::Tensor ReferenceLogits(const TensorMap& p, const at::Tensor& x) {
  const auto block = [&](const at::Tensor& in, const std::string& layer) {
    const at::Tensor out =
        at::convolution(in, p.at(layer + ".weight"), p.at(layer + ".bias"), {1, 1}, {1, 1}, {1, 1}, false, {0, 0}, 1);
    return at::max_pool2d(at::relu(out), {2, 2});
  };
  const at::Tensor flat = block(block(x, "conv1"), "conv2").contiguous().flatten(1);
  const at::Tensor hidden = at::relu(at::addmm(p.at("fc1.bias"), flat, p.at("fc1.weight").t()));
  return at::addmm(p.at("fc2.bias"), hidden, p.at("fc2.weight").t());
}

class SmallCnnTest : public ::testing::TestWithParam<int64_t> {};  // channels

TEST_P(SmallCnnTest, ForwardAndBothBackwardsEqualAutograd) {
  const ImageShape shape{GetParam(), 12, 8};
  const auto model = MakeSmallCnn({.image = shape, .conv1 = 4, .conv2 = 6, .hidden = 9, .classes = 5});
  ParameterSet weights(model->parameters());
  weights.Initialize(11);
  const int64_t rows = 20;
  at::Tensor x = NewImages(rows, shape);
  x.copy_(at::rand({rows, shape.channels, shape.height, shape.width}));
  const at::Tensor labels = at::randint(0, 5, {rows}, at::kLong);
  const LogitsGradient loss = [&](const at::Tensor& logits) {
    return AttackLossGradient(AttackLoss::kCrossEntropy, logits, labels);
  };

  TensorMap reference;
  weights.Export("", &reference);
  std::vector<at::Tensor> inputs = {x.clone(at::MemoryFormat::Contiguous).set_requires_grad(true)};
  for (const auto& spec : model->parameters()) {
    if (spec.kind != ParameterKind::kClassBias) inputs.push_back(reference.at(spec.name).set_requires_grad(true));
  }
  const at::Tensor logits = ReferenceLogits(reference, inputs[0]);
  const at::Tensor sum = at::cross_entropy_loss(logits, labels, {}, /*reduction=sum*/ 2);
  const auto expected = torch::autograd::grad({sum}, inputs);

  EXPECT_TRUE(at::allclose(model->Logits(weights, x), logits.detach(), 1e-5, 1e-6));
  const at::Tensor d_x = model->InputGradient(weights, x, loss);
  EXPECT_TRUE(at::allclose(d_x, expected[0], 1e-4, 1e-7));
  if (shape.channels > 1) {
    EXPECT_EQ(d_x.strides(), x.strides());
  }
  ParameterSet gradients(model->parameters());
  model->WeightGradients(weights, x, loss, nullptr, &gradients);
  TensorMap actual;
  gradients.Export("", &actual);
  for (size_t i = 0; i + 1 < inputs.size(); ++i) {
    const std::string& name = model->parameters()[i].name;
    EXPECT_TRUE(at::allclose(actual.at(name), expected[i + 1], 1e-4, 1e-6)) << name;
  }
}

TEST_P(SmallCnnTest, InBfloat16GradientsAreNearThoseInFloat32FrozenOrNot) {
  ham::testing::SeedTorch();
  const ImageShape shape{GetParam(), 12, 8};
  const auto make = [&](at::ScalarType compute) {
    return MakeSmallCnn({.image = shape, .conv1 = 8, .conv2 = 16, .hidden = 24, .classes = 5, .compute = compute});
  };
  const auto model = make(at::kBFloat16), exact = make(at::kFloat);
  ParameterSet weights(model->parameters()), gradients(model->parameters()), expected(model->parameters());
  weights.Initialize(11);
  at::Tensor x = NewImages(20, shape);
  x.copy_(at::rand(x.sizes()));
  const at::Tensor labels = at::randint(0, 5, {20}, at::kLong);
  const LogitsGradient loss = [&](const at::Tensor& logits) {
    EXPECT_EQ(logits.scalar_type(), at::kFloat);
    return AttackLossGradient(AttackLoss::kCrossEntropy, logits, labels);
  };
  // A ReLU or a maximum that falls out the other way takes a whole share with it: up to 0.42 in 1,200 seeds.
  constexpr double kBound = 0.6;
  const auto distance = [](const at::Tensor& a, const at::Tensor& b) {
    return ((a - b).norm() / b.norm()).item<double>();
  };
  const at::Tensor d_x = model->InputGradient(weights, x, loss), exact_d_x = exact->InputGradient(weights, x, loss);
  EXPECT_EQ(d_x.strides(), x.strides());
  EXPECT_LT(distance(d_x, exact_d_x), kBound);
  EXPECT_GT(distance(d_x, exact_d_x), 1e-4) << "computed in float32";
  EXPECT_TRUE(at::equal(model->Freeze(weights)->InputGradient(x, loss), d_x));
  EXPECT_TRUE(at::equal(exact->Freeze(weights)->InputGradient(x, loss), exact_d_x));
  EXPECT_TRUE(at::equal(model->Logits(weights, x), exact->Logits(weights, x)));
  model->WeightGradients(weights, x, loss, nullptr, &gradients);
  exact->WeightGradients(weights, x, loss, nullptr, &expected);
  for (size_t i = 0; i < model->parameters().size(); ++i) {
    if (model->parameters()[i].kind == ParameterKind::kClassBias) continue;
    EXPECT_LT(distance(gradients[i], expected[i]), kBound) << model->parameters()[i].name;
  }
}

INSTANTIATE_TEST_SUITE_P(Channels, SmallCnnTest, ::testing::Values(1, 3));

TEST(ReluPoolTest, EqualsReluThenPoolAlsoAtTiesAndZeros) {
  const auto last = [](const at::Tensor& t) { return t.contiguous(at::MemoryFormat::ChannelsLast); };
  // Few values, so that ties and zeros abound.
  at::Tensor x = last(at::randint(-2, 3, {3, 5, 6, 4}, at::kFloat));
  const at::Tensor gradient = last(at::randn({3, 5, 3, 2}));
  const ReluPooled pooled = ReluPool(x);
  at::Tensor leaf = x.clone().set_requires_grad(true);
  const at::Tensor expected = at::max_pool2d(at::relu(leaf), {2, 2});
  EXPECT_TRUE(at::equal(pooled.values, expected.detach()));
  EXPECT_TRUE(at::equal(ReluPoolBackward(pooled, gradient), torch::autograd::grad({expected}, {leaf}, {gradient})[0]));
}

struct BlockSizes {
  int64_t channels, outputs;
};

class ConvolveReluPoolTest : public ::testing::TestWithParam<BlockSizes> {
 protected:
  static at::Tensor Images(int64_t rows, const ImageShape& shape) {
    at::Tensor out = NewImages(rows, shape, at::kDouble);
    out.copy_(at::randn(out.sizes(), at::kDouble));
    return out;
  }
};

// In float64, where the order of sums cannot tell.
TEST_P(ConvolveReluPoolTest, EqualsConvolutionReluAndPoolBothWays) {
  const auto [channels, outputs] = GetParam();
  const at::Tensor x = Images(3, {channels, 6, 4}), weight = Images(outputs, {channels, 3, 3});
  const at::Tensor bias = at::randn({outputs}, at::kDouble), gradient = Images(3, {outputs, 3, 2});
  const at::Tensor leaf = x.clone().set_requires_grad(true);
  const at::Tensor expected =
      at::max_pool2d(at::relu(at::convolution(leaf, weight, bias, {1, 1}, {1, 1}, {1, 1}, false, {0, 0}, 1)), {2, 2});
  const ReluPooled pooled = ConvolveReluPool(x, weight, bias);
  EXPECT_TRUE(at::allclose(pooled.values, expected.detach(), 1e-12, 1e-12));
  EXPECT_TRUE(at::allclose(ConvolveReluPoolBackward(pooled, gradient, weight),
                           torch::autograd::grad({expected}, {leaf}, {gradient})[0], 1e-12, 1e-12));
}

TEST_P(ConvolveReluPoolTest, IsTheSameByTheOperationsOfADevice) {
  const auto [channels, outputs] = GetParam();
  const at::Tensor x = Images(3, {channels, 6, 4}), weight = Images(outputs, {channels, 3, 3});
  const at::Tensor bias = at::randn({outputs}, at::kDouble), gradient = Images(3, {outputs, 3, 2});
  const ReluPooled own = ConvolveReluPool(x, weight, bias), theirs = device::ConvolveReluPool(x, weight, bias);
  EXPECT_TRUE(at::allclose(own.values, theirs.values, 1e-12, 1e-12));
  EXPECT_TRUE(at::allclose(ConvolveReluPoolBackward(own, gradient, weight),
                           device::ConvolveReluPoolBackward(theirs, gradient, weight), 1e-12, 1e-12));
  const at::Tensor image = Images(3, {outputs, 6, 4});
  EXPECT_TRUE(at::equal(ReluPoolBackward(ReluPool(image), gradient),
                        device::ReluPoolBackward(device::ReluPool(image), gradient)));
}

INSTANTIATE_TEST_SUITE_P(Sizes, ConvolveReluPoolTest,
                         ::testing::Values(BlockSizes{1, 16}, BlockSizes{3, 4}, BlockSizes{16, 33}, BlockSizes{5, 9}));

TEST(ModelTest, KnownModelsHaveTheParametersTheyPromise) {
  const auto small = MakeModel("cnn-16-32", {.image = {1, 28, 28}});
  ASSERT_TRUE(small.ok());
  EXPECT_EQ(ParameterSet((*small)->parameters()).trained_size(), 206922);
  const auto large = MakeModel("cnn-32-64", {.image = {1, 28, 28}});
  ASSERT_TRUE(large.ok());
  EXPECT_EQ(ParameterSet((*large)->parameters()).trained_size(), 421642);
}

TEST(ModelTest, UnknownNameAndUnfitImagesAreRefused) {
  const auto unknown = MakeModel("resnet", {.image = {1, 28, 28}});
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(unknown.status().message().find("cnn-16-32, cnn-32-64"), std::string::npos);
  EXPECT_EQ(MakeModel("cnn-16-32", {.image = {1, 30, 28}}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ParameterSetTest, InitialValuesAreUniformByFanInAndComeFromTheSeed) {
  const auto model = MakeSmallCnn({.image = {1, 28, 28}});
  ParameterSet a(model->parameters()), b(model->parameters()), c(model->parameters());
  a.Initialize(1);
  b.Initialize(1);
  c.Initialize(2);
  EXPECT_TRUE(at::equal(a.flat(), b.flat()));
  EXPECT_FALSE(at::equal(a.flat(), c.flat()));
  TensorMap named;
  a.Export("", &named);
  for (const auto& spec : model->parameters()) {
    if (spec.kind == ParameterKind::kClassBias) continue;
    const double bound = spec.initial.value;
    const double largest = named.at(spec.name).abs().max().item<double>();
    EXPECT_LE(largest, bound * 1.0001) << spec.name;
    EXPECT_GE(largest, bound * 0.5) << spec.name;
  }
}

TEST(ParameterSetTest, ExportsUseMemoryAgainOnlyWhenNobodyHasIt) {
  ParameterSet set(MakeSmallCnn({.image = {1, 28, 28}})->parameters());
  TensorMap first, second;
  const void* memory = set.Export("", &first).const_data_ptr();
  first = {{"kept", first.begin()->second}};
  set.flat().fill_(1);
  EXPECT_NE(set.Export("", &second).const_data_ptr(), memory);
  EXPECT_EQ(first.at("kept").max().item<double>(), 0);
  memory = second.begin()->second.storage().data();
  second.clear();
  set.flat().fill_(2);
  const at::Tensor third = set.Export("", &second);
  EXPECT_EQ(third.const_data_ptr(), memory);
  EXPECT_TRUE(at::equal(third, set.flat()));
}

TEST(ParameterSetTest, ExportAndImportAreInverse) {
  const auto model = MakeSmallCnn({.image = {3, 8, 8}, .conv1 = 4, .conv2 = 8, .hidden = 5, .classes = 3});
  ParameterSet a(model->parameters()), b(model->parameters());
  a.Initialize(1);
  TensorMap named;
  a.Export("x.", &named);
  EXPECT_EQ(named.at("x.fc1.weight").sizes(), at::IntArrayRef({5, 32}));
  ASSERT_TRUE(b.Import("x.", named).ok());
  EXPECT_TRUE(at::equal(a.flat(), b.flat()));
  named["x.fc1.weight"] = at::rand({32, 5});
  EXPECT_EQ(b.Import("x.", named).code(), absl::StatusCode::kInvalidArgument);
  named.erase("x.fc1.weight");
  EXPECT_EQ(b.Import("x.", named).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace ham::trainer
