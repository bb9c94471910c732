#include "worker/trainer/weights_file.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/item.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"
#include "worker/trainer/checkpoint.h"
#include "worker/trainer/class_bias.h"
#include "worker/trainer/models/networks.h"

namespace ham::trainer {
namespace {

const Normalization kNormalization{{0.5, 0.4, 0.25}, {0.25, 0.2, 0.3}};

class WeightsFileTest : public ::testing::Test {
 protected:
  WeightsFileTest() {
    weights_.Initialize(5);
    weights_.class_bias().fill_(0.25);
    average_.Initialize(6);
    average_.class_bias().fill_(0.5);
  }

  void WriteCheckpointWith(bool average) {
    Checkpoint checkpoint;
    weights_.Export("", &checkpoint.model);
    FoldClassBias(OutputBias(*model_), &checkpoint.model, &checkpoint.state);
    if (average) average_.Export("average.", &checkpoint.state);
    checkpoint.scalars = {
        {"updates", 42}, {"output_bias", OutputBias(*model_)}, {"normalization", NormalizationJson(*model_)}};
    ASSERT_TRUE(WriteCheckpoint(checkpoint_, checkpoint).ok());
  }

  void Write(const TensorMap& tensors) { ham::testing::WriteTestFile(file_, *EncodeSafetensors({tensors, {}})); }

  TensorMap Named() const {
    TensorMap out;
    weights_.Export("", &out);
    out.erase("class_bias");
    return out;
  }

  absl::Status Import(ParameterSet* into) { return ImportWeights(file_, *model_, into, &note_); }

  const std::unique_ptr<Model> model_ = MakeResNet18({.image = {3, 8, 8}, .normalization = kNormalization}, 8);
  ParameterSet weights_{model_->parameters()}, average_{model_->parameters()};
  const ham::testing::TemporaryDirectory directory_;
  const std::string checkpoint_ = directory_ / "checkpoint", file_ = directory_ / "weights.safetensors";
  std::string note_;
};

TEST_F(WeightsFileTest, WeightsOfANormalizingNetworkFitOnlyOneThatDoesTheSame) {
  WriteCheckpointWith(false);
  ASSERT_TRUE(ExportWeights(checkpoint_, false, file_).ok());
  const auto import = [&](std::optional<Normalization> normalization) {
    const auto model = MakeResNet18({.image = {3, 8, 8}, .normalization = std::move(normalization)}, 8);
    ParameterSet weights(model->parameters());
    return ImportWeights(file_, *model, &weights, &note_);
  };
  EXPECT_TRUE(import(kNormalization).ok()) << import(kNormalization);
  for (const auto& other : {std::optional<Normalization>(), std::optional<Normalization>({{0, 0, 0}, {1, 1, 1}})}) {
    EXPECT_TRUE(absl::IsInvalidArgument(import(other)));
    EXPECT_NE(import(other).message().find("subtracts [0.5,0.4,0.25] from pixels"), std::string::npos) << import(other);
  }
}

TEST_F(WeightsFileTest, ExportsWhatAStrictReaderExpects) {
  WriteCheckpointWith(true);
  for (const bool average : {false, true}) {
    ASSERT_TRUE(ExportWeights(checkpoint_, average, file_).ok());
    const auto content = ReadSafetensors(file_);
    ASSERT_TRUE(content.ok()) << content.status();
    EXPECT_EQ(content->metadata.at("mean"), "[0.5,0.4,0.25]");
    EXPECT_EQ(content->metadata.at("standard_deviation"), "[0.25,0.2,0.3]");
    const ParameterSet& from = average ? average_ : weights_;
    TensorMap expected;
    from.Export("", &expected);
    EXPECT_FALSE(content->tensors.contains("class_bias"));
    EXPECT_EQ(content->tensors.at("layer2.0.shortcut.1.num_batches_tracked").item<int64_t>(), 42);
    EXPECT_TRUE(at::equal(content->tensors.at("conv1.weight"), expected.at("conv1.weight")));
    EXPECT_TRUE(at::equal(content->tensors.at("linear.bias"), expected.at("linear.bias") + expected.at("class_bias")));
    // 20 convolutions, 20 BatchNorms of 5 tensors, a linear layer of 2.
    EXPECT_EQ(content->tensors.size(), 20 + 20 * 5 + 2);
    ParameterSet again(model_->parameters());
    ASSERT_TRUE(Import(&again).ok());
    EXPECT_TRUE(note_.empty());
    EXPECT_EQ(again.class_bias().abs().max().item<float>(), 0);
  }
}

TEST_F(WeightsFileTest, NoAverageIsSaid) {
  WriteCheckpointWith(false);
  EXPECT_EQ(ExportWeights(checkpoint_, true, file_).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ExportWeights(directory_ / "nothing", false, file_).code(), absl::StatusCode::kNotFound);
}

TEST_F(WeightsFileTest, NamesOfDataParallelAndOtherFloatsAreTaken) {
  TensorMap parallel;
  for (const auto& [name, tensor] : Named()) parallel["module." + name] = tensor.to(at::kHalf);
  parallel["module.bn1.num_batches_tracked"] = at::full({}, 7, at::kLong);
  Write(parallel);
  ParameterSet into(model_->parameters());
  ASSERT_TRUE(Import(&into).ok());
  EXPECT_NE(note_.find("module."), std::string::npos);
  TensorMap got;
  into.Export("", &got);
  for (const auto& [name, tensor] : Named()) {
    EXPECT_TRUE(at::equal(got.at(name), tensor.to(at::kHalf).to(at::kFloat))) << name;
  }
}

TEST_F(WeightsFileTest, OtherTensorsAreRefusedByName) {
  ParameterSet into(model_->parameters());
  const auto refused = [&](const TensorMap& tensors, const std::string& name) {
    Write(tensors);
    const absl::Status status = Import(&into);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_NE(status.message().find(name), std::string::npos) << status;
    EXPECT_NE(status.message().find(file_), std::string::npos) << status;
  };
  TensorMap more = Named(), fewer = more, other = more, whole = more;
  more["layer5.weight"] = at::zeros({1});
  refused(more, "layer5.weight");
  fewer.erase("conv1.weight");
  refused(fewer, "conv1.weight");
  other["conv1.weight"] = at::zeros({3, 3});
  refused(other, "conv1.weight");
  whole["conv1.weight"] = at::zeros(whole.at("conv1.weight").sizes(), at::kLong);
  refused(whole, "conv1.weight");
}

}  // namespace
}  // namespace ham::trainer
