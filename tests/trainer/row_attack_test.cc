#include "worker/trainer/evaluation/row_attack.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/remainder.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include "absl/strings/str_cat.h"

#include "tests/support/toy_images.h"
#include "worker/trainer/device.h"
#include "worker/trainer/hard_examples.h"
#include "worker/trainer/pgd_attack.h"
#include "worker/trainer/trainer.h"

namespace ham::trainer {
namespace {

using ham::testing::ToyImages;
using ham::testing::ToyModel;

EvaluationAttack Attack(AttackName name, int steps, int targets = 0, int restarts = 1) {
  EvaluationAttack out{AttackLoss::kCrossEntropy, steps, 0.02, restarts, true, JudgedAt::kAny};
  out.name = name;
  out.targets = targets;
  return out;
}

class RowAttackTest : public ::testing::Test {
 protected:
  // Trained a little: an untrained model gives every image the same label.
  static void SetUpTestSuite() {
    at::set_num_threads(1);
    images_ = new ImageSet(ToyImages(200, 2));
    const ImageSet train = ToyImages(200, 1);
    TrainSpec spec = ham::testing::ToySpec();
    spec.method.name = Method::kPgdAt;
    spec.epochs = 4;
    SilentObserver observer;
    const auto local = MakeLocalCollective();
    const auto model = ToyModel();
    const auto data = ChooseRows(spec.data, train, *images_);
    Trainer trainer(spec, *model, *data, *local, observer);
    ASSERT_TRUE(trainer.Run().ok());
    weights_ = new ParameterSet(trainer.weights().Clone());
  }
  static void TearDownTestSuite() {
    delete images_;
    delete weights_;
  }

  RowAttackTest() {
    at::set_num_threads(1);
    passes_.Freeze(*weights_);
    const Batch all = GatherBatch(*images_, Range(0, 200));
    const std::vector<int64_t> predictions = Predictions(passes_.Logits(all.x));
    for (uint32_t id = 0; id < 200; ++id) {
      if (predictions[id] == images_->labels[id]) right_.push_back(id);
    }
  }

  static std::vector<uint32_t> Range(uint32_t begin, uint32_t end) {
    std::vector<uint32_t> out(end - begin);
    std::iota(out.begin(), out.end(), begin);
    return out;
  }

  std::vector<RowOutcome> Run(const std::vector<uint32_t>& ids, const EvaluationAttack& attack, double radius = kRadius,
                              uint32_t place = 0) {
    RowAttack rows(passes_, GatherBatch(*images_, ids), attack, {Norm::kLinf, radius}, 5, place);
    for (int leg = 0; leg < RowAttack::Legs(attack); ++leg) rows.MakeLeg([this] { ++ticks_; });
    return rows.outcomes();
  }

  static int Broken(const std::vector<RowOutcome>& outcomes) {
    return static_cast<int>(std::count_if(outcomes.begin(), outcomes.end(), [](const auto& o) { return o.broken; }));
  }

  static constexpr double kRadius = 0.2;
  static ImageSet* images_;
  static ParameterSet* weights_;
  const std::unique_ptr<Model> model_ = ToyModel();
  NetworkPasses passes_{*model_, *weights_};
  std::vector<uint32_t> right_;
  int ticks_ = 0;
};

ImageSet* RowAttackTest::images_ = nullptr;
ParameterSet* RowAttackTest::weights_ = nullptr;

void ExpectEqual(const RowOutcome& a, const RowOutcome& b) {
  EXPECT_EQ(a.broken, b.broken);
  EXPECT_EQ(a.prediction, b.prediction);
  EXPECT_EQ(a.margin, b.margin);
}

TEST_F(RowAttackTest, SaysOfEachRowWhetherItBroke) {
  for (const EvaluationAttack& attack :
       {Attack(AttackName::kPgd, 20), Attack(AttackName::kApgd, 40), Attack(AttackName::kApgdTargeted, 40, 3),
        Attack(AttackName::kFabTargeted, 40, 3), Attack(AttackName::kSquare, 300)}) {
    const std::vector<RowOutcome> outcomes = Run(right_, attack);
    ASSERT_EQ(outcomes.size(), right_.size());
    EXPECT_GT(Broken(outcomes), 10) << AttackNameOf(attack);
    EXPECT_LT(Broken(outcomes), static_cast<int>(right_.size())) << AttackNameOf(attack);
    for (size_t row = 0; row < outcomes.size(); ++row) {
      EXPECT_EQ(outcomes[row].broken, outcomes[row].prediction != images_->labels[right_[row]]);
      EXPECT_EQ(outcomes[row].broken, outcomes[row].margin <= 0);
    }
  }
}

TEST_F(RowAttackTest, ARowDoesNotDependOnItsBlock) {
  for (const EvaluationAttack& attack :
       {Attack(AttackName::kPgd, 10, 0, 2), Attack(AttackName::kApgd, 30, 0, 2),
        Attack(AttackName::kApgdTargeted, 30, 2), Attack(AttackName::kFabTargeted, 15, 3, 2),
        Attack(AttackName::kSquare, 100, 0, 2)}) {
    const std::vector<RowOutcome> all = Run(right_, attack);
    for (size_t begin = 0; begin < right_.size(); begin += 7) {
      const size_t end = std::min(right_.size(), begin + 7);
      std::vector<uint32_t> part(right_.begin() + begin, right_.begin() + end);
      std::reverse(part.begin(), part.end());
      const std::vector<RowOutcome> outcomes = Run(part, attack);
      for (size_t row = 0; row < part.size(); ++row) ExpectEqual(outcomes[row], all[end - 1 - row]);
    }
  }
}

// Of each row, no more than `fewer` left of its margin, and less of all together.
void ExpectCloser(const std::vector<RowOutcome>& more, const std::vector<RowOutcome>& fewer) {
  float sum_more = 0, sum_fewer = 0;
  for (size_t row = 0; row < more.size(); ++row) {
    EXPECT_LE(fewer[row].broken, more[row].broken);
    if (more[row].broken) continue;
    EXPECT_LE(more[row].margin, fewer[row].margin);
    sum_more += more[row].margin;
    sum_fewer += fewer[row].margin;
  }
  EXPECT_LT(sum_more, sum_fewer);
}

TEST_F(RowAttackTest, RestartsAndTargetsOnlyGetCloser) {
  ExpectCloser(Run(right_, Attack(AttackName::kPgd, 3, 0, 4)), Run(right_, Attack(AttackName::kPgd, 3)));
  ExpectCloser(Run(right_, Attack(AttackName::kApgdTargeted, 3, 3), 0.05),
               Run(right_, Attack(AttackName::kApgdTargeted, 3, 1), 0.05));
}

TEST_F(RowAttackTest, TheLastPointOfPgdIsThatOfTheAscent) {
  EvaluationAttack attack = Attack(AttackName::kPgd, 4);
  attack.judged_at = JudgedAt::kLast;
  const Batch batch = GatherBatch(*images_, right_);
  const Ball ball{Norm::kLinf, kRadius};
  const at::Tensor start =
      RandomStart(batch, ball, {.seed = 5, .purpose = RandomPurpose::kEvaluationStart, .step = 3 * 128});
  const auto x = Ascend(passes_, batch, start, {attack.loss, ball, attack.step_size, 4}, [] {});
  const std::vector<int64_t> predictions = Predictions(passes_.Logits(*x));
  const std::vector<RowOutcome> outcomes = Run(right_, attack, kRadius, 3);
  for (size_t row = 0; row < outcomes.size(); ++row) EXPECT_EQ(outcomes[row].prediction, predictions[row]);
}

TEST_F(RowAttackTest, BrokenRowsLeaveAtOnce) {
  const auto before = passes_.passed();
  EXPECT_EQ(Broken(Run(right_, Attack(AttackName::kApgd, 100), 1)), static_cast<int>(right_.size()));
  EXPECT_LT(passes_.passed()[kInputGradientPass] - before[kInputGradientPass], 30 * static_cast<int>(right_.size()));
  EXPECT_LT(ticks_, 101);
}

TEST_F(RowAttackTest, LegsAreAsManyWhateverBreaks) {
  EXPECT_EQ(RowAttack::Legs(Attack(AttackName::kPgd, 20)), 1);
  EXPECT_EQ(RowAttack::Legs(Attack(AttackName::kApgd, 100, 0, 3)), 3);
  EXPECT_EQ(RowAttack::Legs(Attack(AttackName::kApgdTargeted, 100, 9)), 9);
  EXPECT_EQ(RowAttack::Legs(Attack(AttackName::kSquare, 5000)), 40);
  const EvaluationAttack attack = Attack(AttackName::kApgd, 150);
  ASSERT_EQ(RowAttack::Legs(attack), 2);
  RowAttack rows(passes_, GatherBatch(*images_, {right_[0], right_[1]}), attack, {Norm::kLinf, 1e-6}, 5, 0);
  rows.MakeLeg([this] { ++ticks_; });
  EXPECT_EQ(ticks_, 128);
  rows.MakeLeg([this] { ++ticks_; });
  EXPECT_EQ(ticks_, 151);
  EXPECT_GT(rows.outcomes()[0].margin, 0);
}

TEST_F(RowAttackTest, APointOutsideTheBallIsAnError) {
  Batch batch = GatherBatch(*images_, {right_[0], right_[1]});
  EvaluationAttack attack = Attack(AttackName::kPgd, 1);
  const auto status_of = [&] {
    RowAttack rows(passes_, batch, attack, {Norm::kLinf, 0.01}, 5, 0);
    rows.MakeLeg([] {});
    EXPECT_TRUE(rows.outcomes()[1].broken);
    return rows.status();
  };
  batch.labels = (batch.labels + 1).remainder(4);  // broken as they are
  EXPECT_TRUE(status_of().ok());
  batch.x[1].mul_(10);  // what an attack brings to [0, 1] is far from this
  const absl::Status status = status_of();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(status.message().find(absl::StrCat("pgd broke image ", right_[1], " at a point outside")),
            std::string::npos)
      << status;
}

TEST_F(RowAttackTest, SaysWhatLiesOutsideABall) {
  for (const Norm norm : {Norm::kLinf, Norm::kL2}) {
    const Ball ball{norm, 0.1};
    const at::Tensor clean = at::zeros({4, 1, 1, 2});
    const at::Tensor x = clean.clone();
    x[1][0][0][1] = norm == Norm::kLinf ? 0.1f : 0.08f;
    x[1][0][0][0] = norm == Norm::kLinf ? 0.1f : 0.06f;
    x[2][0][0][1] = 0.10001f;
    x[3][0][0][1] = -0.0001f;
    EXPECT_TRUE(at::equal(OutsideBall(ball, clean, x), at::tensor(std::vector<int>{0, 0, 1, 1}).to(at::kBool)));
    x[0][0][0][0] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(OutsideBall(ball, clean, x)[0].item<bool>());
    EXPECT_TRUE(OutsideBall(ball, at::full_like(clean, 1), clean + 1.0001)[1].item<bool>());
  }
}

// A device is asked which rows are broken after every tenth iteration only, and its loops are LibTorch's.
TEST_F(RowAttackTest, OnADeviceAsManyRowsBreak) {
  for (const EvaluationAttack& attack :
       {Attack(AttackName::kPgd, 10), Attack(AttackName::kApgd, 25), Attack(AttackName::kApgdTargeted, 25, 2),
        Attack(AttackName::kFabTargeted, 15, 3), Attack(AttackName::kSquare, 100)}) {
    const std::vector<RowOutcome> host = Run(right_, attack);
    std::vector<RowOutcome> device;
    {
      const HostAsDevice as_device;
      NetworkPasses passes(*model_, *weights_);
      passes.Freeze(*weights_);
      RowAttack rows(passes, GatherBatch(*images_, right_), attack, {Norm::kLinf, kRadius}, 5, 0);
      for (int leg = 0; leg < RowAttack::Legs(attack); ++leg) rows.MakeLeg([] {});
      device = rows.outcomes();
    }
    int differ = 0;
    for (size_t row = 0; row < host.size(); ++row) {
      differ += host[row].broken != device[row].broken;
      EXPECT_EQ(device[row].broken, device[row].margin <= 0);
    }
    EXPECT_LE(differ, 2) << AttackNameOf(attack) << " of " << host.size();
  }
}

// Rows that go wrong on the way and come back; a device is asked after ten points, and the last takes their place.
TEST_F(RowAttackTest, OnADeviceNoPointOfPgdIsLost) {
  EvaluationAttack attack = Attack(AttackName::kPgd, 7);
  attack.step_size = 0.15;
  const std::vector<RowOutcome> host = Run(right_, attack);
  attack.judged_at = JudgedAt::kLast;
  ASSERT_LT(Broken(Run(right_, attack)), Broken(host)) << "some come back";
  attack.judged_at = JudgedAt::kAny;
  const HostAsDevice as_device;
  NetworkPasses passes(*model_, *weights_);
  passes.Freeze(*weights_);
  RowAttack rows(passes, GatherBatch(*images_, right_), attack, {Norm::kLinf, kRadius}, 5, 0);
  rows.MakeLeg([] {});
  for (size_t row = 0; row < host.size(); ++row) EXPECT_EQ(rows.outcomes()[row].broken, host[row].broken) << row;
}

// In bfloat16 a point is proposed where the network itself is still right, and overlooked where it is not.
TEST_F(RowAttackTest, TheOriginalNetworkDecides) {
  const std::unique_ptr<Model> rough =
      MakeSmallCnn({.image = {1, 8, 8}, .conv1 = 4, .conv2 = 8, .hidden = 16, .classes = 4, .compute = at::kBFloat16});
  NetworkPasses passes(*rough, *weights_);
  passes.Freeze(*weights_);
  const EvaluationAttack attack = Attack(AttackName::kApgd, 40);
  RowAttack rows(passes, GatherBatch(*images_, right_), attack, {Norm::kLinf, kRadius}, 5, 0);
  rows.MakeLeg([] {});
  const std::vector<RowOutcome> exact = Run(right_, attack);
  int same = 0;
  for (size_t row = 0; row < exact.size(); ++row) {
    const RowOutcome& outcome = rows.outcomes()[row];
    EXPECT_EQ(outcome.broken, outcome.margin <= 0);
    same += outcome.broken == exact[row].broken;
  }
  EXPECT_GE(same, static_cast<int>(right_.size()) - 6);
}

}  // namespace
}  // namespace ham::trainer
