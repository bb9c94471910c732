#include "worker/trainer/weights_file.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/item.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"
#include "worker/trainer/checkpoint.h"
#include "worker/trainer/class_bias.h"
#include "worker/trainer/models/networks.h"
#include "worker/trainer/network_passes.h"

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

class LoadModelTest : public ::testing::Test {
 protected:
  LoadModelTest() { weights_.Initialize(5); }

  void Write(const std::map<std::string, std::string>& metadata, const std::string& prefix = "") {
    TensorMap tensors;
    weights_.Export(prefix, &tensors);
    tensors.erase(prefix + "class_bias");
    ham::testing::WriteTestFile(file_, *EncodeSafetensors({tensors, metadata}));
  }

  void ExpectRefused(const std::string& what) {
    const auto loaded = LoadModel("cnn-16-32", file_, {.image = image_});
    EXPECT_EQ(loaded.status().code(), absl::StatusCode::kInvalidArgument) << loaded.status();
    EXPECT_NE(loaded.status().message().find(what), std::string::npos) << loaded.status();
  }

  const ImageShape image_{2, 8, 8};
  const ModelOptions options_{.image = image_, .classes = 7, .normalization = Normalization{{0.5, 0.25}, {0.25, 1}}};
  const std::unique_ptr<Model> model_ = *MakeModel("cnn-16-32", options_);
  ParameterSet weights_{model_->parameters()};
  const ham::testing::TemporaryDirectory directory_;
  const std::string file_ = directory_ / "weights.safetensors";
};

TEST_F(LoadModelTest, TheFileTellsClassesAndNormalization) {
  for (const char* prefix : {"", "module."}) {
    Write({{"mean", "[0.5,0.25]"}, {"standard_deviation", "[0.25,1]"}}, prefix);
    const auto loaded = LoadModel("cnn-16-32", file_, {.image = image_});
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(loaded->model->classes(), 7);
    EXPECT_EQ(NormalizationJson(*loaded->model), NormalizationJson(*model_));
    EXPECT_TRUE(at::equal(loaded->weights->flat(), weights_.flat()));
    EXPECT_EQ(loaded->note.empty(), std::string(prefix).empty());
  }
}

TEST_F(LoadModelTest, ACheckpointsFilesAreWeightsToo) {
  const std::string checkpoint = directory_ / "checkpoint";
  ParameterSet average(model_->parameters());
  average.Initialize(9);
  average.class_bias().fill_(0.5);
  Checkpoint written;
  written.scalars = {{"output_bias", OutputBias(*model_)}, {"normalization", NormalizationJson(*model_)}};
  weights_.Export("", &written.model);
  FoldClassBias(OutputBias(*model_), &written.model, &written.state);
  TensorMap state_alone = written.state;
  average.Export("average.", &written.state);
  ASSERT_TRUE(WriteCheckpoint(checkpoint, written).ok());
  for (const auto& [name, is_average] : {std::pair("model", false), std::pair("state", true)}) {
    const auto loaded = LoadModel("cnn-16-32", absl::StrCat(checkpoint, "/", name, ".safetensors"), {.image = image_});
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    ASSERT_TRUE(ExportWeights(checkpoint, is_average, file_).ok());
    const auto exported = LoadModel("cnn-16-32", file_, {.image = image_});
    ASSERT_TRUE(exported.ok()) << exported.status();
    EXPECT_EQ(NormalizationJson(*loaded->model), NormalizationJson(*model_)) << name;
    EXPECT_TRUE(at::equal(loaded->weights->flat(), exported->weights->flat())) << name;
    EXPECT_EQ(at::equal(loaded->weights->flat(), weights_.flat()), !is_average);
  }
  written.state = state_alone;
  ASSERT_TRUE(WriteCheckpoint(checkpoint, written).ok());
  const auto none = LoadModel("cnn-16-32", checkpoint + "/state.safetensors", {.image = image_});
  EXPECT_EQ(none.status().code(), absl::StatusCode::kFailedPrecondition) << none.status();
  Write({{"scalars", "["}});
  ExpectRefused("metadata \"scalars\" is no JSON object");
}

TEST_F(LoadModelTest, AWideResNetMayHaveItsExtraBlock) {
  const auto wide = *MakeModel("wrn-28-10", {.image = {1, 8, 8}, .extra_block = true});
  TensorMap tensors;
  for (const ParameterSpec& spec : wide->parameters()) {
    if (spec.name != "class_bias") tensors[spec.name] = at::zeros(spec.shape, at::kHalf);
  }
  ham::testing::WriteTestFile(file_, *EncodeSafetensors({tensors, {}}));
  EXPECT_TRUE(LoadModel("wrn-28-10", file_, {.image = {1, 8, 8}}).ok());
}

TEST_F(LoadModelTest, RefusesWhatItCannotMakeAModelOf) {
  Write({{"mean", "[0.5,0.25]"}});
  ExpectRefused("metadata \"standard_deviation\" is absent; it must be a list of 2 numbers");
  for (const char* mean : {"[0.5]", "[0.5,\"a\"]", "0.5", "[0.5,"}) {
    Write({{"mean", mean}, {"standard_deviation", "[0.25,1]"}});
    ExpectRefused(std::string("metadata \"mean\" is ") + mean);
  }
  Write({{"mean", "[0.5,0.25]"}, {"standard_deviation", "[0.25,0]"}});
  ExpectRefused("metadata \"standard_deviation\" holds 0");
  Write({});
  EXPECT_FALSE(LoadModel("cnn", file_, {.image = image_}).ok());
  EXPECT_FALSE(LoadModel("cnn-32-64", file_, {.image = image_}).ok());
  EXPECT_EQ(LoadModel("cnn-16-32", directory_ / "none", {.image = image_}).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(LoadModelTest, LogitsAreWrittenForOtherPrograms) {
  Write({{"mean", "[0.5,0.25]"}, {"standard_deviation", "[0.25,1]"}});
  const std::string images = directory_ / "images", out = directory_ / "logits";
  const auto write = [&](const TensorMap& tensors) {
    ham::testing::WriteTestFile(images, *EncodeSafetensors({tensors, {}}));
    return WriteLogits("cnn-16-32", file_, images, out);
  };
  for (const at::Tensor& wrong : {at::zeros({3, 2, 8}), at::zeros({3, 2, 8, 8}, at::kLong)}) {
    EXPECT_NE(write({{"images", wrong}}).message().find("must hold a tensor \"images\""), std::string::npos);
  }
  EXPECT_NE(write({{"x", at::zeros({3, 2, 8, 8})}}).message().find("must hold a tensor"), std::string::npos);
  at::Tensor x = NewImages(3, image_);
  x.copy_(at::arange(x.numel()).view(x.sizes()) / x.numel());
  ASSERT_TRUE(write({{"images", x}}).ok());
  const auto content = ReadSafetensors(out);
  ASSERT_TRUE(content.ok()) << content.status();
  EXPECT_TRUE(at::equal(content->tensors.at("logits"), PaddedLogits(*model_, weights_, x)));
}

}  // namespace
}  // namespace ham::trainer
