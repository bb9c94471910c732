#include "worker/trainer/input_pipeline.h"

#include <gtest/gtest.h>

#include <ATen/ops/equal.h>

#include "tests/support/toy_images.h"
#include "worker/trainer/perturbation.h"

namespace ham::trainer {
namespace {

class InputPipelineTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kSeed = 9;
  static at::Tensor Noise(int epoch, const std::vector<uint32_t>& ids) {
    return StartNoise(ids, {1, 8, 8}, {Norm::kLinf, 0.1}, {.seed = kSeed, .epoch = static_cast<uint32_t>(epoch)});
  }
  // What Take must return, whatever was prepared.
  void ExpectTakes(InputPipeline* pipeline, int epoch, const std::vector<uint32_t>& ids) {
    const Batch expected =
        GatherAugmented(images_, ids, options_, {.seed = kSeed, .epoch = static_cast<uint32_t>(epoch)}, rows_);
    const auto [batch, noise] = pipeline->Take(epoch, ids);
    EXPECT_TRUE(at::equal(noise, Noise(epoch, ids)));
    EXPECT_EQ(batch.ids, ids);
    EXPECT_TRUE(at::equal(batch.x, expected.x));
    EXPECT_EQ(batch.x.strides(), expected.x.strides());
    EXPECT_TRUE(at::equal(batch.labels, expected.labels));
    EXPECT_TRUE(at::equal(batch.targets, expected.targets));
  }

  const ImageSet images_ = testing::ToyImages(50, 1);
  const std::vector<uint32_t> rows_ = {1, 2, 3, 40};
  const AugmentationOptions options_{.crop_padding = 2, .flip = true, .cutmix = 0.5};
  InputPipeline pipeline_{images_, rows_, options_, kSeed, {.noise = Noise}};
};

TEST_F(InputPipelineTest, GivesWhatIsAskedWhateverWasPrepared) {
  ExpectTakes(&pipeline_, 1, {3, 4});
  pipeline_.Prepare(1, {5, 6, 7});
  ExpectTakes(&pipeline_, 1, {5, 6, 7});
  ExpectTakes(&pipeline_, 1, {5, 6, 7});  // prepared once, taken twice
  pipeline_.Prepare(1, {8});
  ExpectTakes(&pipeline_, 2, {8});  // another epoch
  ExpectTakes(&pipeline_, 1, {8});
  pipeline_.Prepare(2, {9});
  pipeline_.Prepare(2, {10});  // instead of the one before
  ExpectTakes(&pipeline_, 2, {9});
  ExpectTakes(&pipeline_, 2, {10});
  ExpectTakes(&pipeline_, 2, {});
}

TEST_F(InputPipelineTest, EndsWithABatchAhead) { pipeline_.Prepare(1, std::vector<uint32_t>(20000, 3)); }

TEST_F(InputPipelineTest, AugmentedBatchesDifferFromPlainOnes) {
  EXPECT_FALSE(at::equal(pipeline_.Take(1, {1, 2, 3}).batch.x, GatherBatch(images_, {1, 2, 3}).x));
}

}  // namespace
}  // namespace ham::trainer
