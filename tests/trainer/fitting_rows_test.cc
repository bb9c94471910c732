#include "worker/trainer/fitting_rows.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <utility>

#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/host_accelerator.h"
#include "tests/support/run_ranks.h"
#include "tests/support/toy_images.h"
#include "worker/trainer/device.h"
#include "worker/trainer/trainer.h"

namespace ham::trainer {
namespace {

using ham::testing::HostAccelerator;
using ham::testing::RunRanks;
using ham::testing::ToyImages;
using ham::testing::ToyModel;
using ham::testing::ToySpec;
using ::testing::HasSubstr;

constexpr c10::SourceLocation kHere{"Allocate", "somewhere.cc", 1};
constexpr char kWhat[] = "Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB of which 1.00 GiB is free";

void ThrowOutOfMemory() {
  throw c10::OutOfMemoryError(kHere, std::string("CUDA out of memory. ") + kWhat + ". Of the allocated memory");
}

// Has no memory to train on more than `most` rows.
class SmallMemoryModel final : public Model {
 public:
  explicit SmallMemoryModel(int64_t most) : Model(std::nullopt), most_(most) {}

  const std::vector<ParameterSpec>& parameters() const override { return toy_->parameters(); }
  const ImageShape& image_shape() const override { return toy_->image_shape(); }
  int64_t classes() const override { return toy_->classes(); }
  ModelFlops flops() const override { return toy_->flops(); }

 private:
  at::Tensor DoLogits(const ParameterSet& weights, const at::Tensor& x) const override {
    return toy_->Logits(weights, x);
  }
  at::Tensor DoInputGradient(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss,
                             TrainingPass* training) const override {
    return toy_->InputGradient(weights, x, loss, training);
  }
  void DoWeightGradients(const ParameterSet& weights, const at::Tensor& x, const LogitsGradient& loss,
                         TrainingPass* training, ParameterSet* gradients) const override {
    if (x.size(0) > most_) ThrowOutOfMemory();
    toy_->WeightGradients(weights, x, loss, training, gradients);
  }
  std::unique_ptr<FrozenNetwork> DoFreeze(const ParameterSet& weights) const override { return toy_->Freeze(weights); }

  const std::unique_ptr<Model> toy_ = ToyModel();
  const int64_t most_;
};

class FittingRowsTest : public ::testing::Test {
 protected:
  FittingRowsTest() {
    at::set_num_threads(1);
    spec_.epochs = 1;
    spec_.evaluation = {};
  }

  absl::Status Run(const Model& model, Collective& ranks, Accelerator* accelerator = nullptr) {
    const RunData data = *ChooseRows(spec_.data, images_, images_);
    SilentObserver observer;
    return Trainer(spec_, model, data, ranks, observer, accelerator).Run();
  }
  absl::Status RunAlone(const Model& model, Accelerator* accelerator = nullptr) {
    return Run(model, *MakeLocalCollective(), accelerator);
  }

  TrainSpec spec_ = ToySpec();
  const ImageSet images_ = ToyImages(200, 1);
};

TEST_F(FittingRowsTest, SaysWhatFitsAndThatFits) {
  const SmallMemoryModel model(20);
  const absl::Status expected =
      absl::InvalidArgumentError(std::string("the GPU has too little memory for 48 rows at a time (") + kWhat +
                                 "): 12 fit; set train.accumulation_steps to 4 or train.batch_size to 12");
  EXPECT_EQ(RunAlone(model), expected);
  {
    const HostAsDevice as_device;  // where passes are recorded
    HostAccelerator accelerator;
    EXPECT_EQ(RunAlone(model, &accelerator), expected);
    EXPECT_GT(accelerator.recorded(), 0);
  }
  spec_.accumulation_steps = 4;
  EXPECT_TRUE(RunAlone(model).ok());
  spec_.accumulation_steps = 1;
  spec_.batch_size = 12;
  EXPECT_TRUE(RunAlone(model).ok());
}

TEST_F(FittingRowsTest, CountsRanksAndParts) {
  const SmallMemoryModel model(20);
  spec_.batch_size = 192;
  spec_.accumulation_steps = 2;
  const auto status_of_each = [&] {
    std::array<absl::Status, 2> status;
    RunRanks(2, [&](Collective& ranks) { status[ranks.rank()] = Run(model, ranks); });
    return status;
  };
  for (const absl::Status& status : status_of_each()) {
    EXPECT_THAT(std::string(status.message()), HasSubstr("for 48 rows"));
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("12 fit; set train.accumulation_steps to 8 or train.batch_size to 48"));
  }
  spec_.accumulation_steps = 8;
  for (const absl::Status& status : status_of_each()) EXPECT_TRUE(status.ok()) << status;
  spec_.accumulation_steps = 2;
  spec_.batch_size = 48;
  for (const absl::Status& status : status_of_each()) EXPECT_TRUE(status.ok()) << status;
}

TEST_F(FittingRowsTest, SaysWhereNothingFits) {
  EXPECT_EQ(RunAlone(SmallMemoryModel(0)),
            absl::InvalidArgumentError(std::string("the GPU has too little memory for this job (") + kWhat +
                                       "): not even 16 rows at a time fit, so no train.batch_size does; take a GPU "
                                       "with more memory or a smaller train.model"));
}

TEST_F(FittingRowsTest, LibrariesSayInTheirOwnWayThatMemoryIsShort) {
  std::vector<int64_t> tried;
  const absl::Status status = TooManyRows(spec_, 1, 100, kWhat, [&](int64_t rows) {
    tried.push_back(rows);
    if (rows > 25) throw c10::Error(kHere, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED");
  });
  EXPECT_THAT(std::string(status.message()), HasSubstr("25 fit"));
  EXPECT_EQ(tried, (std::vector<int64_t>{50, 25}));
}

TEST_F(FittingRowsTest, AGpuThatFailsMeanwhileIsAnotherError) {
  const auto fail = [](int64_t) { throw c10::AcceleratorError(kHere, 214, "CUDA error: uncorrectable ECC error"); };
  EXPECT_THROW(static_cast<void>(TooManyRows(spec_, 1, 100, kWhat, fail)), c10::AcceleratorError);
}

// LibTorch's memory of the host while it lives: no more than `bytes` beyond what is in use by then. One at a time.
class MemoryLimit final : public c10::Allocator {
 public:
  explicit MemoryLimit(size_t bytes) : bytes_(bytes) {
    used = 0;
    c10::SetCPUAllocator(this);
  }
  ~MemoryLimit() override { c10::SetCPUAllocator(before_); }

  c10::DataPtr allocate(size_t size) override {
    const size_t now = used += size;
    if (now > bytes_) {
      used -= size;
      ThrowOutOfMemory();
    }
    most_ = std::max<size_t>(most_, now);
    char* const begin =
        static_cast<char*>(std::aligned_alloc(kHeader, kHeader + (size + kHeader - 1) / kHeader * kHeader));
    *reinterpret_cast<size_t*>(begin) = size;
    return {begin + kHeader, begin + kHeader, &Free, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &Free; }
  void copy_data(void* to, const void* from, size_t count) const override { default_copy_data(to, from, count); }

  size_t most() const { return most_; }

 private:
  static constexpr size_t kHeader = 64;  // LibTorch's alignment; holds the size
  static inline std::atomic<size_t> used{0};

  static void Free(void* memory) {
    char* const begin = static_cast<char*>(memory) - kHeader;
    used -= *reinterpret_cast<size_t*>(begin);
    std::free(begin);
  }

  c10::Allocator* const before_ = c10::GetCPUAllocator();
  const size_t bytes_;
  std::atomic<size_t> most_{0};
};

TEST_F(FittingRowsTest, HeedingTheAdviceSavesTheMemory) {
  const HostAsDevice as_device;
  HostAccelerator accelerator;
  const auto model = ToyModel();  // with few weights: rows need most memory
  const auto alone = MakeLocalCollective();
  SilentObserver observer;
  const RunData data = *ChooseRows(spec_.data, images_, images_);
  const auto three_steps = [&] {
    Trainer trainer(spec_, *model, data, *alone, observer, &accelerator);
    for (int i = 0; i < 3; ++i) {
      if (absl::Status status = trainer.Step(1, trainer.OrderOf(1), 0).status(); !status.ok()) return status;
    }
    return absl::OkStatus();
  };
  spec_.batch_size = 192;
  spec_.accumulation_steps = 4;
  size_t enough = 0;
  {
    MemoryLimit memory(size_t{1} << 40);
    ASSERT_TRUE(three_steps().ok());
    enough = memory.most();
  }
  MemoryLimit memory(enough + enough / 8);
  spec_.accumulation_steps = 1;
  const std::string advice(three_steps().message());
  ASSERT_THAT(advice, HasSubstr("for 192 rows"));
  ASSERT_THAT(advice, HasSubstr("48 fit; set train.accumulation_steps to 4 or"));
  spec_.accumulation_steps = 4;
  const absl::Status heeded = three_steps();
  EXPECT_TRUE(heeded.ok()) << heeded;
}

}  // namespace
}  // namespace ham::trainer
