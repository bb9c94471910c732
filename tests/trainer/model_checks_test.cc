#include "worker/trainer/evaluation/model_checks.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sqrt.h>
#include <gtest/gtest.h>

#include "tests/support/toy_images.h"
#include "worker/trainer/checkpoint.h"
#include "worker/trainer/device.h"
#include "worker/trainer/hard_examples.h"
#include "worker/trainer/models/autograd_model.h"
#include "worker/trainer/trainer.h"

namespace ham::trainer {
namespace {

using ham::testing::ToyImages;
using ham::testing::ToyModel;
using Alter = std::function<at::Tensor(const at::Tensor& logits)>;

// Which quadrant is brightest, on average, in logits that `alter` gets to see.
class QuadrantModel final : public AutogradModel {
 public:
  explicit QuadrantModel(Alter alter) : AutogradModel({.image = {1, 8, 8}, .classes = 4}), alter_(std::move(alter)) {
    LayerList layers;
    layer_ = layers.LinearOfImage("0", {1, 8, 8}, 4);
    SetLayers(layers);
  }

  ParameterSet Weights() const {
    ParameterSet out(parameters());
    for (int64_t pixel = 0; pixel < 64; ++pixel) {
      out[0].data_ptr<float>()[(pixel / 32 * 2 + pixel % 8 / 4) * 64 + pixel] = 4.0f / 16;
    }
    return out;
  }

 private:
  at::Tensor Forward(const ForwardPass& pass, at::Tensor x) const override { return alter_(pass.Linear(x, layer_)); }

  const Alter alter_;
  LinearLayer layer_;
};

EvaluationAttack Attack(AttackName name, int steps, double step_size = 0) {
  EvaluationAttack out{AttackLoss::kCrossEntropy, steps, step_size};
  out.name = name;
  out.targets = name == AttackName::kApgdTargeted ? 3 : 0;
  return out;
}

std::vector<WarningType> TypesOf(const std::vector<EvaluationWarning>& warnings) {
  std::vector<WarningType> out;
  for (const EvaluationWarning& warning : warnings) out.push_back(warning.type);
  return out;
}

using Warned = std::vector<WarningType>;

class ModelChecksTest : public ::testing::Test {
 protected:
  ModelChecksTest() {
    at::set_num_threads(1);
    ids_.resize(images_.rows);
    std::iota(ids_.begin(), ids_.end(), 0);
  }

  std::vector<EvaluationWarning> WarningsOf(const Model& model, const ParameterSet& weights,
                                            const std::string& digest = "") {
    NetworkPasses passes(model, weights);
    passes.Freeze(weights);
    const Batch all = GatherBatch(images_, ids_);
    EvaluationOutcomes outcomes;
    for (const int64_t prediction : Predictions(passes.Logits(all.x))) {
      const size_t row = outcomes.labels.size();
      outcomes.labels.push_back(static_cast<int32_t>(images_.labels[ids_[row]]));
      outcomes.clean_predictions.push_back(static_cast<int32_t>(prediction));
    }
    const auto before = passes.passed();
    auto out = NetworkWarnings(passes, weights, digest.empty() ? ParametersDigest(weights.flat()) : digest,
                               {images_, ids_, attacks_, ball_, 5}, CheckedRows(outcomes), [this] { ++ticks_; });
    for (int pass = 0; pass < kPasses; ++pass) passed_[pass] = passes.passed()[pass] - before[pass];
    return out;
  }

  std::vector<EvaluationWarning> WarningsOf(const Alter& alter) {
    const QuadrantModel model(alter);
    return WarningsOf(model, model.Weights());
  }

  const ImageSet images_ = ToyImages(200, 2);
  std::vector<uint32_t> ids_;
  std::vector<EvaluationAttack> attacks_ = {Attack(AttackName::kApgd, 20)};
  Ball ball_{Norm::kLinf, 0.1};
  std::array<int64_t, kPasses> passed_ = {};
  int ticks_ = 0;
};

at::Tensor Same(const at::Tensor& logits) { return logits; }

TEST_F(ModelChecksTest, ATrainedNetworkHasNoWarning) {
  TrainSpec spec = ham::testing::ToySpec();
  spec.method.name = Method::kPgdAt;
  spec.epochs = 4;
  SilentObserver observer;
  const auto local = MakeLocalCollective();
  const auto model = ToyModel();
  const ImageSet train = ToyImages(200, 1);
  const auto data = ChooseRows(spec.data, train, images_);
  Trainer trainer(spec, *model, *data, *local, observer);
  ASSERT_TRUE(trainer.Run().ok());
  for (const EvaluationAttack& attack :
       {Attack(AttackName::kApgd, 100), Attack(AttackName::kPgd, 20, 0.01), Attack(AttackName::kApgdTargeted, 100)}) {
    attacks_ = {Attack(AttackName::kSquare, 100), attack};
    for (const EvaluationWarning& warning : WarningsOf(*model, trainer.weights())) ADD_FAILURE() << warning.message;
    const HostAsDevice as_device;
    for (const EvaluationWarning& warning : WarningsOf(*model, trainer.weights())) ADD_FAILURE() << warning.message;
  }
}

TEST_F(ModelChecksTest, TakesFewPassesOfTheFirstRows) {
  EXPECT_EQ(TypesOf(WarningsOf(Same)), Warned{});
  EXPECT_GE(ticks_, 7 + 2 + 20 + 20);  // the last: of two large balls one at least, and of the first attack
  EXPECT_LE(passed_[kInputGradientPass], kCheckedRows * (2 + 42 + 21));
  EXPECT_GE(passed_[kForwardPass], kCheckedRows * 7);
  EXPECT_LE(passed_[kForwardPass], kCheckedRows * 12);  // broken rows are judged once more in the large balls
}

TEST_F(ModelChecksTest, TheSameImagesHaveTheSameLogits) {
  int calls = 0;
  double jitter = 1e-7;
  const auto random = [&](const at::Tensor& logits) {
    return logits + std::sin(++calls) * jitter * at::arange(4, logits.options());
  };
  EXPECT_EQ(TypesOf(WarningsOf(random)), Warned{});
  jitter = 1e-3;
  EXPECT_EQ(TypesOf(WarningsOf(random)), Warned{WarningType::kRandomized});
}

TEST_F(ModelChecksTest, PredictionsCountWhereLengthsHideTheirDifference) {
  int calls = 0;
  const auto random = [&](const at::Tensor& logits) {
    return logits + 1e5 + 10 * std::sin(++calls) * at::arange(4, logits.options());
  };
  EXPECT_EQ(TypesOf(WarningsOf(random))[0], WarningType::kRandomized);
}

TEST_F(ModelChecksTest, LogitsDoNotDependOnThePlaceInABatch) {
  const auto by_place = [](const at::Tensor& logits) {
    return logits + 1e-3 * at::arange(logits.size(0), logits.options()).view({-1, 1});
  };
  EXPECT_EQ(TypesOf(WarningsOf(by_place)), Warned{WarningType::kRandomized});
}

TEST_F(ModelChecksTest, LogitsDoNotDependOnOtherImages) {
  const auto warnings =
      WarningsOf([](const at::Tensor& logits) { return logits - 0.1 * logits.mean(at::OptionalIntArrayRef({0})); });
  ASSERT_EQ(TypesOf(warnings), Warned{WarningType::kDynamicForward});
  EXPECT_NE(warnings[0].message.find("with other images beside them"), std::string::npos);
}

TEST_F(ModelChecksTest, WeightsStayAsTheyWere) {
  const QuadrantModel model(Same);
  ParameterSet weights = model.Weights();
  const std::string digest = ParametersDigest(weights.flat());
  weights[0].data_ptr<float>()[0] += 1e-6f;
  const auto warnings = WarningsOf(model, weights, digest);
  ASSERT_EQ(TypesOf(warnings), Warned{WarningType::kDynamicForward});
  EXPECT_NE(warnings[0].message.find(digest), std::string::npos);
}

TEST_F(ModelChecksTest, OutputsAreNoProbabilities) {
  EXPECT_EQ(TypesOf(WarningsOf([](const at::Tensor& logits) { return at::softmax(logits, 1); })),
            Warned{WarningType::kProbabilities});
  EXPECT_EQ(TypesOf(WarningsOf([](const at::Tensor& logits) { return 0.999 * at::softmax(logits, 1); })), Warned{});
}

TEST_F(ModelChecksTest, SaturatedCrossEntropyHasNoGradient) {
  const auto warnings = WarningsOf([](const at::Tensor& logits) { return 1e6 * logits; });
  ASSERT_EQ(TypesOf(warnings), (Warned{WarningType::kZeroGradients, WarningType::kRobustAtLargeEpsilon}));
  EXPECT_EQ(warnings[0].message,
            "of 128 images, where apgd starts, the gradient is 0 in all pixels for 128 of cross_entropy and for 0 of "
            "dlr");
}

TEST_F(ModelChecksTest, GradientsAreNumbers) {
  const auto types = TypesOf(WarningsOf([](const at::Tensor& logits) { return logits + at::sqrt(0 * logits); }));
  EXPECT_EQ(types, (Warned{WarningType::kOutOfRange, WarningType::kRobustAtLargeEpsilon}));
}

TEST_F(ModelChecksTest, LargeBallsLeaveNothing) {
  EXPECT_EQ(TypesOf(WarningsOf(Same)), Warned{});
  ball_.radius = 0.01;  // 32/255 is not enough here
  const auto warnings = WarningsOf(Same);
  ASSERT_EQ(TypesOf(warnings), Warned{WarningType::kRobustAtLargeEpsilon});
  EXPECT_NE(warnings[0].message.find(" at 0.06275 and "), std::string::npos) << warnings[0].message;
  EXPECT_NE(warnings[0].message.find(" at 0.1255,"), std::string::npos) << warnings[0].message;
  ball_ = {Norm::kL2, 0.1};
  EXPECT_EQ(TypesOf(WarningsOf(Same)), Warned{WarningType::kRobustAtLargeEpsilon});
  ball_ = {Norm::kL2, 0.8};
  EXPECT_EQ(TypesOf(WarningsOf(Same)), Warned{});
}

TEST_F(ModelChecksTest, LossHasRisenBeforeTheLastSteps) {
  attacks_ = {Attack(AttackName::kSquare, 10), Attack(AttackName::kPgd, 20, 0.0005)};
  const auto warnings = WarningsOf(Same);
  ASSERT_EQ(TypesOf(warnings), Warned{WarningType::kLossStillRising});
  EXPECT_NE(warnings[0].message.find("in the last 2 of 20 steps of pgd"), std::string::npos) << warnings[0].message;
  attacks_[1].step_size = 0.02;
  EXPECT_EQ(TypesOf(WarningsOf(Same)), Warned{});
  attacks_[1].step_size = 0.0005;
  ids_.resize(9);
  EXPECT_EQ(TypesOf(WarningsOf(Same)), Warned{});
}

TEST_F(ModelChecksTest, NothingIsAskedOfANetworkThatIsAlwaysWrong) {
  EXPECT_EQ(TypesOf(WarningsOf([](const at::Tensor& logits) { return -logits; })), Warned{});
  EXPECT_EQ(passed_[kForwardPass] + passed_[kInputGradientPass], 0);
}

}  // namespace
}  // namespace ham::trainer
